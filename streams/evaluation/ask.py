"""Asks a policy what it would have done on a log: probabilities of the logged items, and what a model expects.

Invariant: the answer to a slate depends on its context, candidates, length and the parameters; slates that share
the first two are asked together, each group under its own seed.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandits.backend import Backend
from bandits.graph import Int32, Int64
from bandits.ope import NoSupport
from bandits.sums import Float64, Sums
from streams.evaluation.reward_models import RewardModels
from streams.evaluation.slates import LoggedSlates
from streams.evaluation.slot_probabilities import prefix_probabilities, slot_probabilities
from streams.evaluation.target import TargetPolicy

MAX_DRAWN_SCORES = 2_000_000  # of one group: bounds memory
MAX_DRAWS = 10_000


@dataclass(eq=False)
class Answers:
    """What a policy would have done, columns of shape (n_rows,) unless stated.

    Attributes:
        probability: P(logged item at its position).
        model_value: reward that the model expects of the policy at that position.
        prefix: P(the logged items down to this one), NaN where it was not asked.
        prefix_value: reward of this slot and those below that the model expects given the slots above, times
            P(the slots above).
        no_prefix: why prefixes could not be answered; empty if they were.
    """

    probability: Float64
    model_value: Float64
    prefix: Float64
    prefix_value: Float64
    no_prefix: str = ""


def ask(
    log: LoggedSlates,
    target: TargetPolicy,
    *,
    sums: Sums,
    backend: Backend,
    models: RewardModels,
    candidates: str,
    draws: int,
    prefixes: bool,
    seed: int,
    progress: Callable[[int], None],
) -> Answers:
    """Ask a policy about every slate of a log.

    Args:
        log: the log.
        target: the policy.
        sums: its parameters, of the graph of the log.
        backend: reads them.
        models: reward models.
        candidates: what it chooses from, see `LoggedSlates.candidates_of`.
        draws: draws of the scores behind a Monte Carlo probability, for each slate of a group.
        prefixes: ask for prefixes too.
        seed: of the draws.
        progress: told the number of slates done.
    """
    rows = len(log.slate)
    answers = Answers(np.zeros(rows), np.zeros(rows), np.full(rows, np.nan), np.full(rows, np.nan))
    ends = np.cumsum(log.lengths())
    starts = ends - log.lengths()
    done = 0
    for number, (row, slates) in enumerate(_groups(log, candidates).items()):
        items = log.candidates_of(row, candidates)
        if len(items):
            gathered = backend.gather(log.graph, sums, items, log.context_of(row))
            count = max(1, min(draws * len(slates), MAX_DRAWS, MAX_DRAWN_SCORES // len(items)))
            scores = target.scores(gathered, draws=count, seed=(seed + number) % 2**63)
            members = [np.arange(starts[s], ends[s]) for s in slates]
            _answer(answers, log, target, scores, items, members, models)
            if prefixes and not answers.no_prefix:
                try:
                    _answer_prefixes(answers, log, target, scores[:draws], items, members, models)
                except NoSupport as error:
                    answers.no_prefix = str(error)
        done += len(slates)
        progress(done)
    return answers


def _groups(log: LoggedSlates, candidates: str) -> dict[int, list[int]]:
    """Slates by the first row of the context table that says the same."""
    first: dict[bytes, int] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for slate, row in enumerate(log.context.tolist()):
        context = log.context_of(row)
        key = b"|".join([context.cluster_ids.tobytes(), context.weights.tobytes()])
        if candidates == "logged":
            key += b"|" + log.candidates_of(row, candidates).tobytes()
        groups[first.setdefault(key, row)].append(slate)
    return groups


def _answer(
    answers: Answers,
    log: LoggedSlates,
    target: TargetPolicy,
    scores: Float64,
    items: Int32,
    members: list[Int64],
    models: RewardModels,
) -> None:
    by_size: dict[int, list[Int64]] = defaultdict(list)
    for rows in members:
        by_size[int(log.position[rows[-1]]) + 1 if log.whole else log.slots].append(rows)
    for size, slates in by_size.items():
        rows = np.concatenate(slates)
        table = slot_probabilities(scores, slate_size=size, top_m=target.top_m, explore_share=target.exploration)
        place = _places(items, log.item[rows])
        position = log.position[rows]
        there = position < table.shape[1]
        found = there & (place >= 0)
        answers.probability[rows[found]] = table[place[found], position[found]]
        expected = models.expected(table, items)  # (folds, slots)
        answers.model_value[rows[there]] = expected[models.fold[log.slate[rows[there]]], position[there]]


def _answer_prefixes(
    answers: Answers,
    log: LoggedSlates,
    target: TargetPolicy,
    scores: Float64,
    items: Int32,
    members: list[Int64],
    models: RewardModels,
) -> None:
    for rows in members:
        fold = int(models.fold[log.slate[rows[0]]])
        answers.prefix[rows], answers.prefix_value[rows] = prefix_probabilities(
            scores,
            _places(items, log.item[rows]),
            models.below[fold][items][:, : len(rows)],
            top_m=target.top_m,
            explore_share=target.exploration,
        )


def _places(items: Int32, wanted: Int32) -> Int64:
    """Place of each wanted item among the candidates, -1 if it is none of them; -1 is never one."""
    order = np.argsort(items)
    at = np.minimum(np.searchsorted(items, wanted, sorter=order), len(items) - 1)
    place = order[at]
    return np.where(items[place] == wanted, place, -1).astype(np.int64)

"""Replays a recorded log through joiner and learner, and asks how a policy would have done on it.

Invariant: counts and state hash depend on the log alone, not on the size of micro-batches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandits.backend import Backend
from bandits.context import Context
from bandits.graph import Int32, Int64
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.learner import Learner
from bandits.policies import PolicySettings, describe, score
from bandits.policy_settings import with_pooled_mean
from bandits.slates import pick
from bandits.sums import UNIT, N, S, state_hash
from streams.logs import EventLog

_OTHER_CANDIDATES = 9
_RECENT_ROWS = 1_000


@dataclass(frozen=True)
class PolicyReplay:
    """Replay estimate of a policy (Li et al., WSDM 2011): the mean reward of the logged rows it agrees with.

    Attributes:
        policy: what was replayed.
        asked: rows on which the policy was asked.
        matched: rows on which it chose the logged item.
        rewarded: matched rows with a reward; with a handful of them the estimate says nothing.
        reward: mean reward of the matched rows; weighted by 1/propensity where the log has propensities.
        standard_error: of `reward`.
        logged_reward: mean reward of all asked rows: the logging policy's own.
        unbiased: True where the log has propensities, so that the estimate means what it says.
    """

    policy: str
    asked: int
    matched: int
    rewarded: int
    reward: float
    standard_error: float
    logged_reward: float
    unbiased: bool


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did.

    Attributes:
        log: name of the log.
        rows: shown items read.
        clicks: clicks read.
        counts: of joiner and learner.
        state_hash: of all sums at the end.
        seconds: time spent in joiner and learner.
        events_per_second: rows and clicks by `seconds`.
        policy: the replay estimate, if it was asked for.
        note: what to know of this log.
    """

    log: str
    rows: int
    clicks: int
    counts: dict[str, int]
    state_hash: str
    seconds: float
    events_per_second: float
    policy: PolicyReplay | None
    note: str


def replay(
    log: EventLog,
    *,
    rule: JoinRule,
    backend: Backend,
    batch_rows: int,
    clock: Callable[[], float],
    progress: Callable[[int], None],
    asker: "PolicyAsker | None" = None,
) -> ReplayReport:
    """Fold a log.

    Args:
        log: the log.
        rule: the join rule.
        backend: adds the facts.
        batch_rows: rows in one micro-batch.
        clock: seconds, for the report.
        progress: told the number of rows done.
        asker: asks a policy before each micro-batch is learned.
    """
    joiner, learner = Joiner(rule), Learner.empty(log.graph, backend)
    spent = 0.0
    clicks = 0
    for offset, start in enumerate(range(0, len(log), batch_rows)):
        end = min(start + batch_rows, len(log))
        if asker:
            asker.ask(log, learner, start, end)
        shown, reactions = log.part(start, end)
        began = clock()
        outcomes, change = joiner.join(shown, reactions)
        learner.apply(outcomes, offset=offset)
        joiner.apply(change)
        spent += clock() - began
        clicks += len(reactions)
        progress(end)
    counts = joiner.tally.as_dict() | {"clicks_waiting": joiner.waiting_clicks}
    counts |= {"facts_applied": learner.facts_applied, "facts_unknown": learner.facts_unknown}
    return ReplayReport(
        log=log.name,
        rows=len(log),
        clicks=clicks,
        counts=counts,
        state_hash=state_hash(log.graph, learner.sums),
        seconds=spent,
        events_per_second=(len(log) + clicks) / max(spent, 1e-9),
        policy=asker.estimate() if asker else None,
        note=log.note,
    )


class PolicyAsker:
    """Asks a policy on a sample of the rows, each with the parameters learned before its micro-batch.

    The candidates of a row are the logged item and others: all items where the log has propensities, else a few
    of those shown shortly before.
    """

    def __init__(self, *, mode: str, settings: PolicySettings, every: int, seed: int) -> None:
        self._mode, self._settings, self._every, self._seed = mode, settings, every, seed
        self._asked = 0
        self._logged = 0.0
        self._weights: list[float] = []
        self._rewards: list[float] = []
        self._exact = True

    def ask(self, log: EventLog, learner: Learner, start: int, end: int) -> None:
        """Ask on every n-th row of start <= row < end."""
        for row in range(-(-start // self._every) * self._every, end, self._every):
            self._ask_row(log, learner, row)

    def estimate(self) -> PolicyReplay:
        """The estimate over all rows asked."""
        weights, rewards = np.array(self._weights), np.array(self._rewards)
        total = float(weights.sum())
        mean = float((weights * rewards).sum() / total) if total else float("nan")
        spread = float(np.sqrt((weights**2 * (rewards - mean) ** 2).sum()) / total) if total else float("nan")
        return PolicyReplay(
            policy=describe(self._mode, self._settings),
            asked=self._asked,
            matched=len(rewards),
            rewarded=int(np.count_nonzero(rewards)),
            reward=mean,
            standard_error=spread,
            logged_reward=self._logged / max(self._asked, 1),
            unbiased=self._exact,
        )

    def _ask_row(self, log: EventLog, learner: Learner, row: int) -> None:
        graph = learner.graph
        logged = graph.index[log.item_ids[row]]
        propensity = float(log.propensity[row])
        candidates = self._candidates(log, learner, row, logged, propensity)
        clusters, weights = log.context_of(row)
        sums = learner.backend.gather(graph, learner.sums, candidates, Context(clusters, weights))
        if self._mode == "randomized_ucb":
            impressions, rewards = int(learner.sums.item[:, N].sum()), float(learner.sums.item[:, S].sum()) / UNIT
            self._settings = with_pooled_mean(self._settings, impressions=impressions, rewards=rewards)
        scores = score(self._mode, sums, self._settings, self._seed + row)
        slate = pick(scores.score, keys=sums.keys, slate_size=1, seed=self._seed + row)
        self._asked += 1
        self._logged += float(log.clicked[row])
        self._exact = self._exact and propensity > 0
        if candidates[slate.chosen[0]] == logged:
            self._weights.append(1 / propensity if propensity > 0 else 1.0)
            self._rewards.append(float(log.clicked[row]))

    def _candidates(self, log: EventLog, learner: Learner, row: int, logged: int, propensity: float) -> Int32:
        if propensity > 0:
            return np.arange(learner.graph.n_items, dtype=np.int32)
        rng = np.random.default_rng((self._seed, row))
        recent: Int64 = rng.integers(max(row - _RECENT_ROWS, 0), row + 1, _OTHER_CANDIDATES)
        others = learner.graph.lookup([log.item_ids[i] for i in recent.tolist()])
        found: Int32 = np.unique(np.append(others, np.int32(logged)))
        return found

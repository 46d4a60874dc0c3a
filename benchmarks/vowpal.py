"""Vowpal Wabbit beside the compiled paths: learning one impression, ranking one slate of 100 candidates.

Invariants: both are given the same clusters, weights, items and rewards; Vowpal Wabbit reads its own binary cache,
the fastest input it has, and what it takes to start is measured on an almost empty input and taken off.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from bandits.aligned import aligned_zeros
from bandits.backend_numba import NumbaBackend
from bandits.graph import Graph
from bandits.policies import PolicySettings
from bandits.slates_numba import CompiledSlates
from bandits.sums import UNIT, Facts, Sums
from benchmarks.catalogue import FULL, TINY, Request, learned_sums, make_facts, make_graph, make_requests
from benchmarks.measure import ROUNDS, Result, ratios
from benchmarks.row_touch import touch_rows, wake_rows
from benchmarks.score import CANDIDATES, SLATE
from server.scoring import SlateRules

TITLE = "Beside Vowpal Wabbit"
ABOUT = (
    "The same impressions and the same requests, in turn. Update: facts of ten clusters that are all edges of "
    "their item, 1,000,000 items x 32 edges; Vowpal Wabbit learns each cluster with the item (`-q ui`, 2^25 "
    "weights) from its binary cache. `row touch` reads and writes one word on every cache line of the same rows "
    "and does nothing else: the bound of this layout. Slate: 100 candidates with new rows each time, ten "
    "returned; Vowpal Wabbit predicts one `--cb_explore_adf` example. CPU time of the whole process: Vowpal "
    "Wabbit parses on a thread of its own, which is counted, and what it takes to start is taken off. Needs the "
    "package `vowpalwabbit`."
)
_FEATURES = "-q ui --ignore_linear u --ignore_linear i --noconstant -b 25 --quiet"
_LEARN = {"Vowpal Wabbit --sgd": f"{_FEATURES} --sgd", "Vowpal Wabbit": _FEATURES}
_RANK = f"{_FEATURES} --cb_explore_adf --epsilon 0 -t"
_RULES = SlateRules(PolicySettings(), top_m=1, explore_share=0.0, propensity_draws=64)


_Batch = TypeVar("_Batch")
_HERE = importlib.util.find_spec("vowpalwabbit") is not None


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(7)
    graph = make_graph(TINY if quick else FULL, rng)
    rounds, facts, slates = (2, 200, 5) if quick else (ROUNDS, 50_000, 500)
    return _updates(graph, rng, rounds, facts) + _slates(graph, rng, rounds, slates)


def _updates(graph: Graph, rng: np.random.Generator, rounds: int, size: int) -> list[Result]:
    sums = Sums(aligned_zeros((graph.n_edges, 3), np.int64), aligned_zeros((graph.n_items, 2), np.int64))
    sums.edge += 1  # the pages are there, so no page fault is measured
    sums.item += 1
    backend = NumbaBackend()
    batches = [make_facts(graph, size, rng) for _ in range(rounds + 1)]

    def awake(path: Callable[[Facts], object]) -> Callable[[Facts], float]:
        def measure(facts: Facts) -> float:
            wake_rows(graph, sums, rng)
            return _cpu(lambda: path(facts))

        return measure

    contenders: dict[str, Callable[[Facts], float]] = {
        "Freshet": awake(lambda facts: backend.add(graph, sums, facts)),
        "row touch": awake(lambda facts: touch_rows(graph, sums, facts.item)),
    }
    for name, options in _LEARN.items() if _HERE else ():
        contenders[name] = partial(_vowpal, options, _impressions)
    spent = _in_turn(contenders, batches, size)
    pairs = [("Freshet", "row touch"), *((name, "Freshet") for name in _LEARN if _HERE)]
    return [
        *(Result.of(f"update, {name}", [s * 1e9 for s in values], "ns/fact") for name, values in spent.items()),
        *(Result.of(f"update, {one} / {other}", ratios(spent[one], spent[other]), "x") for one, other in pairs),
    ]


def _slates(graph: Graph, rng: np.random.Generator, rounds: int, size: int) -> list[Result]:
    slates, policy = CompiledSlates.following(graph, learned_sums(graph, rng)), _RULES.compiled["ucb"]
    requests = make_requests(graph, (rounds + 1) * size, CANDIDATES, rng)
    batches = [requests[first : first + size] for first in range(0, len(requests), size)]

    def fill(batch: Sequence[Request]) -> None:
        for request in batch:
            slates.fill(request.items, request.context, policy, slate_size=SLATE, seed=1, redraws=64)

    def measure(batch: Sequence[Request]) -> float:
        fill(batches[-1])  # as `wake_rows` does
        return _cpu(lambda: fill(batch))

    contenders: dict[str, Callable[[Sequence[Request]], float]] = {"Freshet ucb": measure}
    if _HERE:
        contenders["Vowpal Wabbit"] = partial(_vowpal, _RANK, _decisions)
    spent = _in_turn(contenders, batches, size)
    results = [Result.of(f"slate, {name}", [s * 1e6 for s in values], "us") for name, values in spent.items()]
    if _HERE:
        ratio = ratios(spent["Vowpal Wabbit"], spent["Freshet ucb"])
        results.append(Result.of("slate, Vowpal Wabbit / Freshet ucb", ratio, "x"))
    return results


def _in_turn(
    contenders: dict[str, Callable[[_Batch], float]], batches: Sequence[_Batch], size: int
) -> dict[str, list[float]]:
    """CPU seconds for each element of a batch, by contender and batch; the last batch is for warming up."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for measure in contenders.values():
        measure(batches[-1])
    for batch in batches[:-1]:
        for name, measure in contenders.items():
            spent[name].append(measure(batch) / size)
    return spent


def _cpu(call: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _vowpal(options: str, examples: Callable[[_Batch], Iterator[str]], batch: _Batch) -> float:
    """CPU seconds that Vowpal Wabbit takes for a batch, without what it takes to start."""
    from vowpalwabbit import Workspace

    lines = list(examples(batch))
    with tempfile.TemporaryDirectory() as folder:
        spent = []
        for name, some in (("first", lines[:1]), ("all", lines)):
            data = Path(folder, name)
            data.write_text("".join(some))

            def run(data: Path = data) -> None:
                Workspace(f"{options} -d {data} --cache_file {data}.cache").finish()

            run()  # writes the cache, from which the second run reads
            spent.append(_cpu(run))
    return spent[1] - spent[0]


def _impressions(facts: Facts) -> Iterator[str]:
    """One line for each fact: label, item, clusters with their weights."""
    for fact, item in enumerate(facts.item.tolist()):
        of = slice(facts.context_ptr[fact], facts.context_ptr[fact + 1])
        clusters, weights = facts.context_cluster[of].tolist(), (facts.context_x[of] / UNIT).tolist()
        user = " ".join(f"{cluster}:{weight:.6g}" for cluster, weight in zip(clusters, weights, strict=True))
        yield f"{facts.reward[fact] / UNIT:g} |i {item} |u {user}\n"


def _decisions(requests: Sequence[Request]) -> Iterator[str]:
    """One multi-line example for each request: the user, then a line for each candidate."""
    for request in requests:
        clusters, weights = request.context.cluster_ids.tolist(), request.context.weights.tolist()
        user = " ".join(f"{cluster}:{weight:.6g}" for cluster, weight in zip(clusters, weights, strict=True))
        yield f"shared |u {user}\n" + "".join(f"|i {item}\n" for item in request.items.tolist()) + "\n"

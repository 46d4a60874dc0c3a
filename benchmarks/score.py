"""One 100-candidate score in process: gather, policy, slate, for every mode and stage by stage."""

import statistics
import time

import numpy as np

from bandits.backend_numba import NumbaBackend
from bandits.backend_numpy import NumpyBackend
from bandits.graph import Graph
from bandits.policies import MODES, CandidateSums, PolicySettings, score
from bandits.slates import pick
from bandits.sums import Sums
from benchmarks.catalogue import FULL, TINY, Request, learned_sums, make_graph, make_requests
from benchmarks.measure import ROUNDS, Result
from server.scoring import SlateRules, fill_slate

TITLE = "Score: 100 candidates in process"
ABOUT = (
    "1,000,000 items x 32 edges, 20,000 clusters, K = 10, slates of 10; every request has its own user and its own "
    "candidates, so their rows come from memory, not from cache. Stages: gather (rows to columns), policy (columns "
    "to scores), pick (scores to a slate). `fill_slate` is what the server does after gathering: policy, pick, and "
    "the propensities of Thompson modes estimated from 64 redraws. Wall time of one thread, median of the requests "
    "of a round. Gathered columns are compared with the NumPy reference, scores with float64 sums over edges."
)
CANDIDATES, SLATE = 100, 10
_SETTINGS = PolicySettings()


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(3)
    graph = make_graph(TINY if quick else FULL, rng)
    sums = learned_sums(graph, rng)
    rounds, per_round = (2, 5) if quick else (ROUNDS, 200)
    requests = make_requests(graph, rounds * per_round * len(MODES), CANDIDATES, rng)
    check(graph, sums, requests[: 5 if quick else 100])
    times: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in MODES}
    backend = NumbaBackend()
    for number in range(rounds):
        for at, mode in enumerate(MODES):
            first = (number * len(MODES) + at) * per_round
            times[mode].append(_round(backend, graph, sums, requests[first : first + per_round], mode))
    results = []
    for mode, measured in times.items():
        gather, policy, picking, filling = zip(*measured, strict=True)
        total = [sum(stages[:3]) for stages in measured]
        stages = ", ".join(f"{statistics.median(stage):.0f}" for stage in (gather, policy, picking))
        results.append(Result.of(mode, total, "us", f"gather, policy, pick: {stages} us"))
        results.append(Result.of(f"{mode}, gather + fill_slate", map(sum, zip(gather, filling, strict=True)), "us"))
    return results


def _round(
    backend: NumbaBackend, graph: Graph, sums: Sums, requests: list[Request], mode: str
) -> tuple[float, ...]:
    """Median microseconds of gather, policy, pick, and of `fill_slate`."""
    clock = time.perf_counter
    rules = SlateRules(_SETTINGS, top_m=1, explore_share=0.0, propensity_draws=64)
    spent = []
    for seed, request in enumerate(requests):
        began = clock()
        columns = backend.gather(graph, sums, request.items, request.context)
        gathered = clock()
        scores = score(mode, columns, _SETTINGS, seed)
        scored = clock()
        pick(scores.score, keys=columns.keys, slate_size=SLATE, seed=seed)
        picked = clock()
        fill_slate(columns, mode=mode, slate_size=SLATE, seed=seed, rules=rules)
        filled = clock()
        spent.append((gathered - began, scored - gathered, picked - scored, filled - picked))
    return tuple(statistics.median(stage) * 1e6 for stage in zip(*spent, strict=True))


def check(graph: Graph, sums: Sums, requests: list[Request]) -> None:
    """The fast gather equals the reference bit for bit; UCB equals a sum over edges."""
    for request in requests:
        fast = NumbaBackend().gather(graph, sums, request.items, request.context)
        reference = NumpyBackend().gather(graph, sums, request.items, request.context)
        for name in ("edge", "a", "d", "b", "n", "s", "keys"):
            assert np.array_equal(getattr(fast, name), getattr(reference, name)), name
        np.testing.assert_allclose(score("ucb", fast, _SETTINGS, 0).score, _ucb_by_edges(reference), rtol=1e-12)


def _ucb_by_edges(sums: CandidateSums) -> list[float]:
    scores = []
    for edge, a, d, b in zip(sums.edge, sums.a, sums.d, sums.b, strict=True):
        mean = sum(w * y / x for w, has, x, y in zip(sums.weights, edge, a, b, strict=True) if has)
        variance = sum(w * w / x for w, has, x in zip(sums.weights, edge, d, strict=True) if has)
        scores.append(mean + _SETTINGS.alpha * variance**0.5)
    return scores

"""One 100-candidate slate in process: compiled in one call, and NumPy's stages, for every mode."""

import statistics
import time

import numpy as np

from bandits.backend_numba import NumbaBackend
from bandits.backend_numpy import NumpyBackend
from bandits.graph import Graph
from bandits.policies import MODES, CandidateSums, PolicySettings, score
from bandits.slates import pick
from bandits.slates_numba import CompiledSlates
from bandits.sums import Sums
from benchmarks.catalogue import FULL, TINY, Request, learned_sums, make_graph, make_requests
from benchmarks.measure import ROUNDS, Result, ratios
from server.scoring import SlateRules, fill_slate

TITLE = "Score: 100 candidates in process"
ABOUT = (
    "1,000,000 items x 32 edges, 20,000 clusters, K = 10, slates of 10; every request has its own user and its "
    "own candidates, so their rows come from memory, not from cache. `compiled` is what the server does: one "
    "call from rows to slate. `NumPy` is the definition that it equals: gather (rows to columns), policy "
    "(columns to scores), pick (scores to a slate). `from sums` is the same call where there are no rows that hold "
    "an item's clusters and sums side by side (`bandits.serving_rows_numba`). Propensities of drawn modes are "
    "integrated over the draws (`beta_thompson`: 64 redraws). CPU time of one thread, median of the requests of a "
    "round, each on requests of its own. Gathered columns are compared with the NumPy reference, scores with "
    "float64 sums over edges, compiled slates with NumPy's, bit for bit."
)
CANDIDATES, SLATE = 100, 10
_SETTINGS = PolicySettings()
_RULES = SlateRules(_SETTINGS, top_m=1, explore_share=0.0, propensity_draws=64)


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(3)
    graph = make_graph(TINY if quick else FULL, rng)
    sums = learned_sums(graph, rng)
    rounds, per_round = (2, 5) if quick else (ROUNDS, 200)
    requests = make_requests(graph, rounds * per_round * len(MODES), CANDIDATES, rng)
    check(graph, sums, requests[: 5 if quick else 100])
    times: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in MODES}
    backend, slates, plain = NumbaBackend(), CompiledSlates.following(graph, sums), CompiledSlates(graph, sums)
    for number in range(rounds):
        for at, mode in enumerate(MODES):
            first = (number * len(MODES) + at) * per_round
            times[mode].append(_round(backend, slates, plain, requests[first : first + per_round], mode))
    results = []
    for mode, measured in times.items():
        gather, policy, picking, filling, compiled, summed = zip(*measured, strict=True)
        stages = ", ".join(f"{statistics.median(stage):.0f}" for stage in (gather, policy, picking))
        numpy = [one + other for one, other in zip(gather, filling, strict=True)]
        if mode in _RULES.compiled:
            results.append(Result.of(f"{mode}, compiled", compiled, "us"))
            results.append(Result.of(f"{mode}, compiled from sums", summed, "us"))
            results.append(Result.of(f"{mode}, NumPy / compiled", ratios(numpy, compiled), "x"))
        results.append(Result.of(f"{mode}, NumPy", numpy, "us", f"gather, policy, pick: {stages} us"))
    return results


def _round(
    backend: NumbaBackend, slates: CompiledSlates, plain: CompiledSlates, requests: list[Request], mode: str
) -> tuple[float, ...]:
    """Median microseconds of gather, policy, pick, of `fill_slate`, and of the compiled call both ways."""
    clock = time.thread_time
    policy = _RULES.compiled.get(mode)
    spent = []
    for seed, request in enumerate(requests[::3]):
        began = clock()
        columns = backend.gather(slates.graph, slates.sums, request.items, request.context)
        gathered = clock()
        scores = score(mode, columns, _SETTINGS, seed)
        scored = clock()
        pick(scores.score, keys=columns.keys, slate_size=SLATE, seed=seed)
        picked = clock()
        fill_slate(columns, mode=mode, slate_size=SLATE, seed=seed, rules=_RULES)
        filled = clock()
        spent.append((gathered - began, scored - gathered, picked - scored, filled - picked))
    stages = [statistics.median(stage) * 1e6 for stage in zip(*spent, strict=True)]
    compiled = []
    for of, own in ((slates, requests[1::3]), (plain, requests[2::3])):
        times = [0.0]
        for seed, request in enumerate(own if policy is not None else []):
            began = clock()
            of.fill(request.items, request.context, policy, slate_size=SLATE, seed=seed, redraws=64)
            times.append(clock() - began)
        compiled.append(statistics.median(times) * 1e6)
    return (*stages, *compiled)


def check(graph: Graph, sums: Sums, requests: list[Request]) -> None:
    """The fast gather and the compiled slates equal the reference bit for bit; UCB equals a sum over edges."""
    both = CompiledSlates.following(graph, sums), CompiledSlates(graph, sums)
    for seed, request in enumerate(requests):
        fast = NumbaBackend().gather(graph, sums, request.items, request.context)
        reference = NumpyBackend().gather(graph, sums, request.items, request.context)
        for name in ("edge", "a", "d", "b", "n", "s", "keys"):
            assert np.array_equal(getattr(fast, name), getattr(reference, name)), name
        for mode, policy in _RULES.compiled.items():
            told = fill_slate(reference, mode=mode, slate_size=SLATE, seed=seed, rules=_RULES)
            for slates in both:
                made = slates.fill(request.items, request.context, policy, slate_size=SLATE, seed=seed, redraws=64)
                assert np.array_equal(made[0], told.chosen), mode
                assert np.array_equal(made[1], [told.score, told.mean, told.width, told.propensity]), mode
        np.testing.assert_allclose(score("ucb", fast, _SETTINGS, 0).score, _ucb_by_edges(reference), rtol=1e-12)


def _ucb_by_edges(sums: CandidateSums) -> list[float]:
    scores = []
    for edge, a, d, b in zip(sums.edge, sums.a, sums.d, sums.b, strict=True):
        mean = sum(w * y / x for w, has, x, y in zip(sums.weights, edge, a, b, strict=True) if has)
        variance = sum(w * w / x for w, has, x in zip(sums.weights, edge, d, strict=True) if has)
        scores.append(mean + _SETTINGS.alpha * variance**0.5)
    return scores

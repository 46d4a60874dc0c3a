"""Slates of the items around a user, in process: candidates found, scored and picked in one compiled call."""

import statistics
import time

import numpy as np

from bandits.backend_numpy import NumpyBackend
from bandits.context import Context
from bandits.graph import Graph, build_graph
from bandits.policies import PolicySettings, score
from bandits.slates_numba import CompiledSlates, compiled_policy
from bandits.sums import Sums
from benchmarks.catalogue import K, learned_sums, softmax
from benchmarks.measure import ROUNDS, Result

TITLE = "Retrieval: slates of the items around a user, in process"
ABOUT = (
    "200,000 items x 20 edges within topics of 64 clusters, 4,000 clusters; a user of K = 10 clusters of one "
    "topic has about 10,000 edges to about 3,200 items. One compiled call finds them, adds up the terms of each, "
    "and fills a slate of 10 with propensities; every call has its own user. CPU time of one thread, median of "
    "the calls of a round, modes in turn. In the run, slates are compared with those of a Score of the same "
    "candidates, and means and widths with float64 sums over edges."
)
_TOPIC, _DEGREE, _SLATE = 64, 20, 10
_MODES = ("ucb", "thompson", "randomized_ucb")


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(8)
    graph = _graph(*((2_000, 128) if quick else (200_000, 4_000)), rng)
    slates = CompiledSlates(graph, _sums(graph, rng))
    users = [_user(graph, rng) for _ in range(6 if quick else 300)]
    policies = {mode: compiled_policy(mode, PolicySettings(), top_m=1, explore_share=0.0) for mode in _MODES}
    for user in users[:3]:
        check(slates, user)
    spent: dict[str, list[float]] = {mode: [] for mode in _MODES}
    per_round = max(1, len(users) // ROUNDS // len(_MODES))
    for number in range(2 if quick else ROUNDS):
        for at, mode in enumerate(_MODES):
            first = (number * len(_MODES) + at) * per_round % len(users)
            calls = []
            for seed, user in enumerate(users[first : first + per_round]):
                began = time.thread_time()
                slates.fill_around(user, policies[mode], slate_size=_SLATE, seed=seed, draws=lambda _: 1)  # type: ignore[arg-type]
                calls.append(time.thread_time() - began)
            spent[mode].append(statistics.median(calls))
    edges = statistics.mean(_edges(graph, user) for user in users)
    results = [Result.of(mode, [one * 1e6 for one in of_mode], "us") for mode, of_mode in spent.items()]
    results += [
        Result.of(f"{mode}, an edge", [one * 1e9 / edges for one in of_mode], "ns")
        for mode, of_mode in spent.items()
    ]
    return results


def check(slates: CompiledSlates, user: Context) -> None:
    """The slate around a user is the one of a Score of the same candidates; its numbers are sums over edges."""
    graph = slates.graph
    items = graph.items_around(user.cluster_ids)
    for mode in _MODES:
        policy = compiled_policy(mode, PolicySettings(), top_m=1, explore_share=0.0)
        assert policy is not None
        chosen, numbers, _, count = slates.fill_around(user, policy, slate_size=_SLATE, seed=1, draws=lambda _: 1)
        of_score = slates.fill(items, user, policy, slate_size=_SLATE, seed=1, redraws=1)
        assert count == len(items)
        assert chosen.tolist() == items[of_score[0]].tolist(), mode
        gathered = NumpyBackend().gather(graph, slates.sums, chosen.astype(np.int32), user)
        defined = score(mode, gathered, PolicySettings(), 1)
        np.testing.assert_allclose(numbers[:3], [defined.score, defined.mean, defined.width], rtol=1e-12)


def _graph(items: int, clusters: int, rng: np.random.Generator) -> Graph:
    topic = rng.integers(0, clusters // _TOPIC, items)[:, None] * _TOPIC
    chosen = topic + np.argsort(rng.random((items, _TOPIC)), axis=1)[:, :_DEGREE]
    return build_graph(
        version="benchmark",
        centroids=[],
        n_clusters=clusters,
        item_ids=[f"item-{number}" for number in range(items)],
        edge_item=np.repeat(np.arange(items), _DEGREE),
        edge_cluster=chosen.ravel(),
    )


def _sums(graph: Graph, rng: np.random.Generator) -> Sums:
    """Learned sums, with rates that differ from edge to edge."""
    sums = learned_sums(graph, rng)
    sums.edge[:, 2] = sums.edge[:, 2] * rng.integers(0, 50, graph.n_edges) // 25
    return sums


def _user(graph: Graph, rng: np.random.Generator) -> Context:
    topic = int(rng.integers(0, graph.n_clusters // _TOPIC))
    clusters = topic * _TOPIC + np.sort(rng.permutation(_TOPIC)[:K])
    return Context(clusters.astype(np.int32), softmax(rng.normal(size=K)))


def _edges(graph: Graph, user: Context) -> int:
    return int((graph.cluster_ptr[user.cluster_ids + 1] - graph.cluster_ptr[user.cluster_ids]).sum())

"""Slates of the items around a user, in process: candidates found, scored and picked in one compiled call."""

import statistics
import time

import numpy as np

from bandits.backend_numpy import NumpyBackend
from bandits.cluster_rows_numba import ClusterRows
from bandits.context import Context
from bandits.graph import Graph, build_graph
from bandits.policies import PolicySettings, score
from bandits.shortlist_numba import ShortlistedSlates
from bandits.slates_numba import CompiledPolicy, CompiledSlates, compiled_policy
from bandits.sums import Sums
from benchmarks.catalogue import K, learned_sums, softmax
from benchmarks.measure import ROUNDS, Result

TITLE = "Retrieval: slates of the items around a user, in process"
ABOUT = (
    "200,000 items x 20 edges within topics of 64 clusters, 4,000 clusters; a user of K = 10 clusters of one "
    "topic has about 10,000 edges to about 3,200 items. A slate of 10 with propensities; every call has its own "
    "user. `all items scored` finds them and adds up the terms of each from the int64 sums, wherever these lie; "
    "otherwise rows by cluster say who may be in the slate, and these are scored. CPU time of one thread, median "
    "of the calls of a round, both ways and all modes in turn. In the run, slates are compared with those of a "
    "Score of the same candidates, both ways bit for bit, and means and widths with float64 sums over edges. "
    "`following` is what a change of 1,000 items costs more, of which every second edge has changed."
)
_TOPIC, _DEGREE, _SLATE = 64, 20, 10
_MODES = ("ucb", "thompson", "randomized_ucb")
_UNLISTED = ("thompson",)  # all items are scored anyway
_FOLLOWED = 1_000


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(8)
    graph = _graph(*((2_000, 128) if quick else (200_000, 4_000)), rng)
    sums = _sums(graph, rng)
    rows = _copied(graph, sums)
    slates = CompiledSlates.following(graph, sums)
    shortlisted = ShortlistedSlates(slates, rows)
    ways: dict[str, CompiledSlates | ShortlistedSlates] = {"": shortlisted, ", all items scored": slates}
    users = [_user(graph, rng) for _ in range(6 if quick else 600)]
    policies = {mode: _policy(mode) for mode in _MODES}
    for user in users[:3]:
        check(slates, shortlisted, user)
    asked = [(mode, way) for mode in _MODES for way in ways if not (way and mode in _UNLISTED)]
    spent: dict[str, list[float]] = {mode + way: [] for mode, way in asked}
    per_round = max(1, len(users) // ROUNDS // len(asked))
    for number in range(2 if quick else ROUNDS):
        for at, (mode, way) in enumerate(asked):
            first = (number * len(asked) + at) * per_round % len(users)
            calls = []
            for seed, user in enumerate(users[first : first + per_round]):
                began = time.thread_time()
                ways[way].fill_around(user, policies[mode], slate_size=_SLATE, seed=seed, draws=lambda _: 1)
                calls.append(time.thread_time() - began)
            spent[mode + way].append(statistics.median(calls))
    edges = statistics.mean(_edges(graph, user) for user in users)
    results = [Result.of(name, [one * 1e6 for one in times], "us") for name, times in spent.items()]
    results += [
        Result.of(f"{name}, an edge", [one * 1e9 / edges for one in times], "ns") for name, times in spent.items()
    ]
    results += [
        Result.of(
            f"{mode}, all items scored / shortlist",
            [one / other for one, other in zip(spent[f"{mode}, all items scored"], spent[mode], strict=True)],
            "x",
        )
        for mode in _MODES
        if mode not in _UNLISTED
    ]
    return [*results, _following(graph, sums, rows, rng)]


def _copied(graph: Graph, sums: Sums) -> ClusterRows:
    rows = ClusterRows(graph)
    while not rows.ready:
        rows.copy_more(sums.edge)
    return rows


def _policy(mode: str) -> CompiledPolicy:
    policy = compiled_policy(mode, PolicySettings(), top_m=1, explore_share=0.0)
    assert policy is not None
    return policy


def _following(graph: Graph, sums: Sums, rows: ClusterRows, rng: np.random.Generator) -> Result:
    """An edge that changed has to be put where it lies by cluster."""
    spent = []
    rows.follow(graph.item_ptr, sums.edge, np.empty(0, np.int32), np.empty((0, 3), np.int64))  # compiled now
    for _ in range(ROUNDS):
        items = np.sort(rng.permutation(graph.n_items)[:_FOLLOWED]).astype(np.int32)
        edges = (items[:, None].astype(np.int64) * _DEGREE + np.arange(_DEGREE)).ravel()
        new = sums.edge[edges]
        new[::2] += 1
        began = time.thread_time()
        rows.follow(graph.item_ptr, sums.edge, items, new)
        spent.append(time.thread_time() - began)
        sums.edge[edges] = new
    assert np.array_equal(rows.rows, _copied(graph, sums).rows)
    return Result.of("following, an item of a change", [one * 1e9 / len(items) for one in spent], "ns")


def check(slates: CompiledSlates, shortlisted: ShortlistedSlates, user: Context) -> None:
    """The slate around a user is the one of a Score of the same candidates; its numbers are sums over edges."""
    graph = slates.graph
    items = graph.items_around(user.cluster_ids)
    for mode in _MODES:
        policy = _policy(mode)
        chosen, numbers, _, count = slates.fill_around(user, policy, slate_size=_SLATE, seed=1, draws=lambda _: 1)
        of_list = shortlisted.fill_around(user, policy, slate_size=_SLATE, seed=1, draws=lambda _: 1)
        assert of_list[3] == count
        assert np.array_equal(of_list[0], chosen)
        assert np.array_equal(of_list[1], numbers)
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

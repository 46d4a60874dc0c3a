"""Slates of a shortlist are the slates of all items: few are scored, and nobody can tell."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits import shortlist_numba as shortlist
from bandits.cluster_rows_numba import ClusterRows
from bandits.context import Context, fixed_point_weights
from bandits.drawn_propensity import ACCURACY
from bandits.graph import Graph, build_graph
from bandits.graph_edit import GraphEdit, edited
from bandits.policies import PolicySettings
from bandits.shortlist_numba import ShortlistedSlates
from bandits.slates_numba import CompiledPolicy, CompiledSlates, compiled_policy
from bandits.sums import UNIT, Sums

N_CLUSTERS, N_ITEMS, DEGREE = 40, 2_000, 12
MODES = ("exploit", "ucb", "randomized_ucb")
POLICIES = st.builds(
    PolicySettings,
    alpha=st.sampled_from([0.0, 0.3, 100.0]),
    prior_mean=st.sampled_from([0.0, 0.2]),
    prior_strength=st.sampled_from([0.0, 2.0**-30, 3.0]),
    estimator=st.sampled_from(["diagonal", "averaged"]),
    optimism=st.sampled_from([0.0, 0.55, 100.0]),
    edge_strength=st.sampled_from([1e-3, 2.5, 1e9]),
    item_strength=st.sampled_from([1e-3, 40.0]),
    pooled_mean=st.sampled_from([1e-9, 0.0123, 0.97]),
)


def make_graph(rng: np.random.Generator) -> Graph:
    """A user of ten clusters has edges to most items."""
    clusters = np.argsort(rng.random((N_ITEMS, N_CLUSTERS)), axis=1)[:, :DEGREE]
    return build_graph(
        version="v1",
        centroids=[],
        n_clusters=N_CLUSTERS,
        item_ids=[f"i{number}" for number in range(N_ITEMS)],
        edge_item=np.repeat(np.arange(N_ITEMS), DEGREE),
        edge_cluster=clusters.ravel(),
    )


GRAPH = make_graph(np.random.default_rng(0))


def make_sums(graph: Graph, rng: np.random.Generator, kind: str) -> Sums:
    """Sums as if learned; `close`: items that differ in the last of many bits."""
    x = rng.integers(1, UNIT + 1, graph.n_edges)
    count = rng.choice([1, 30, 1_000, 1_000_000], graph.n_edges)
    reward = rng.random(graph.n_edges) * count
    if kind == "close":
        count = rng.integers(1 << 17, 1 << 20, graph.n_edges)
    if kind == "huge":
        count = rng.integers(1 << 30, 1 << 32, graph.n_edges)
        reward = count * rng.random(graph.n_edges)
    edge = np.stack([count * x, count * x * x, (reward * x).astype(np.int64) * UNIT], axis=1)
    if kind == "close":  # rates that are equal but for the rounding of b
        edge[:, 2] = edge[:, 0] * UNIT // 50
    if kind == "unseen":
        edge[rng.random(graph.n_edges) < 0.001] = 0
    if kind == "new":
        edge[rng.random(graph.n_edges) < 0.9] = 0
    if kind == "close":
        return Sums(edge, np.full((graph.n_items, 2), 20) * [50, UNIT])
    shown = rng.integers(0, 1_000_000, graph.n_items)
    item = np.stack([shown, (shown * rng.random(graph.n_items) * UNIT).astype(np.int64)], axis=1)
    return Sums(edge, item)


def make_user(rng: np.random.Generator, k: int) -> Context:
    clusters = np.sort(rng.choice(N_CLUSTERS, k, replace=False)).astype(np.int32)
    return Context(clusters, fixed_point_weights(rng.dirichlet(np.ones(k))[None])[0] / UNIT)


def copied(graph: Graph, sums: Sums) -> ClusterRows:
    rows = ClusterRows(graph)
    while not rows.ready:
        rows.copy_more(sums.edge, 7_000)
    return rows


def policy_of(mode: str, policy: PolicySettings, top_m: int = 1) -> CompiledPolicy:
    compiled = compiled_policy(mode, policy, top_m=top_m, explore_share=0.0, largest=1e9)
    assert compiled is not None
    return compiled


@pytest.fixture(autouse=True)
def _any_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are made around however few edges, and used however long they are."""
    monkeypatch.setattr(shortlist, "FEWEST_EDGES", 0)
    monkeypatch.setattr(shortlist, "_SHARE", 0)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many were on the lists that were made, and of how many."""
    lists: list[tuple[int, int]] = []
    entry = shortlist._fill_listed

    def counted(*given: Any) -> tuple[int, int]:
        found: tuple[int, int] = entry(*given)
        if found[0] >= 0:
            lists.append(found)
        return found

    monkeypatch.setattr(shortlist, "_fill_listed", counted)
    return lists


@settings(max_examples=250, deadline=None)
@given(data=st.data(), policy=POLICIES, mode=st.sampled_from(MODES), seed=st.integers(0, 2**64 - 1))
def test_a_slate_of_the_shortlist_is_the_slate_of_all(
    data: st.DataObject, policy: PolicySettings, mode: str, seed: int
) -> None:
    """Items, scores, propensities, marks and the count agree to the last bit, in edited graphs too."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    if policy.prior_strength and data.draw(st.booleans()):
        policy = replace(policy, unseen="prior")
    graph, kind = GRAPH, data.draw(st.sampled_from(["learned", "close", "huge", "unseen", "new"]))
    sums = make_sums(graph, rng, kind)
    rows = copied(graph, sums)
    if data.draw(st.booleans()):
        gone = [f"i{number}" for number in rng.choice(np.arange(10, N_ITEMS), 300, replace=False)]
        graph = edited(GRAPH, GraphEdit("v2", ["i3", "new"], [[0, 1], list(range(N_CLUSTERS))], retired=gone))
        more = make_sums(graph, rng, kind)
        sums = Sums(
            np.concatenate([sums.edge, more.edge[GRAPH.n_edges :]]),
            np.concatenate([sums.item, more.item[N_ITEMS:]]),
        )
    context = make_user(rng, data.draw(st.sampled_from([1, 3, 10, 40])))
    compiled = policy_of(mode, policy, top_m=data.draw(st.sampled_from([1, 7, 40])))
    size = data.draw(st.sampled_from([1, 10, 32, 100]))
    slates = CompiledSlates(graph, sums)
    listed = ShortlistedSlates(slates, rows)
    expected = slates.fill_around(context, compiled, slate_size=size, seed=seed, draws=lambda _: 3)
    for _ in range(2):  # what is used again is left clean
        got = listed.fill_around(context, compiled, slate_size=size, seed=seed, draws=lambda _: 3)
        assert got[3] == expected[3]
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1][:3], expected[1][:3])
        np.testing.assert_array_equal(got[2], expected[2])
        if graph.edits is None:
            np.testing.assert_array_equal(got[1][3], expected[1][3])
        else:  # attached items come last: chances are multiplied, and those of a crowd sampled, in another order
            np.testing.assert_allclose(got[1][3], expected[1][3], rtol=1e-4, atol=ACCURACY / 10)


@pytest.mark.parametrize("seed", range(8))
def test_scores_that_float32_cannot_tell_apart_are_told_apart(seed: int) -> None:
    """Where all rates are 1 in 50 but for the last bits of sums, the best by these bits is the best."""
    rng = np.random.default_rng(seed)
    sums = make_sums(GRAPH, rng, "close")
    rows, policy = copied(GRAPH, sums), PolicySettings(pooled_mean=0.02, optimism=0.0, alpha=0.0)
    for mode in MODES:
        slates = CompiledSlates(GRAPH, sums)
        user = make_user(rng, 1)
        asked: dict[str, Any] = {"slate_size": 3, "seed": seed, "draws": lambda _: 1}
        expected = slates.fill_around(user, policy_of(mode, policy), **asked)
        got = ShortlistedSlates(slates, rows).fill_around(user, policy_of(mode, policy), **asked)
        assert np.ptp(expected[1][0]) < 1e-8
        np.testing.assert_array_equal(got[0], expected[0])


@pytest.mark.parametrize("mode", MODES)
def test_few_are_listed(mode: str, listed: list[tuple[int, int]]) -> None:
    """Where sums tell items apart, a slate of ten scores less than one item in ten, or lists would not pay."""
    rng = np.random.default_rng(5)
    x = rng.integers(1 << 12, 1 << 15, GRAPH.n_edges)
    rate = np.repeat(rng.beta(2, 30, N_ITEMS), DEGREE)
    edge = np.stack([3_000 * x, 3_000 * x * x, (3_000 * rate).astype(np.int64) * x * UNIT], axis=1)
    sums = Sums(edge, np.full((N_ITEMS, 2), 10_000) * [1, UNIT // 16])
    slates = ShortlistedSlates(CompiledSlates(GRAPH, sums), copied(GRAPH, sums))
    for _ in range(10):
        slates.fill_around(
            make_user(rng, 10), policy_of(mode, PolicySettings()), slate_size=10, seed=1, draws=lambda _: 1
        )
    assert len(listed) == 10
    assert all(10 <= kept < count / 10 for kept, count in listed)


def test_a_list_that_does_not_pay_is_not_made_again_at_once(
    monkeypatch: pytest.MonkeyPatch, listed: list[tuple[int, int]]
) -> None:
    """Where nothing has been learned everybody is listed: then all are scored, without a list before each slate."""
    monkeypatch.setattr(shortlist, "_SHARE", 4)
    sums = Sums.zeros(GRAPH)
    slates = ShortlistedSlates(CompiledSlates(GRAPH, sums), copied(GRAPH, sums))
    user, policy = make_user(np.random.default_rng(1), 10), policy_of("ucb", PolicySettings())
    for seed in range(2 * (shortlist._REST + 1)):
        slates.fill_around(user, policy, slate_size=3, seed=seed, draws=lambda _: 1)
    assert len(listed) == 2


def test_rows_follow_the_sums() -> None:
    """Whatever is written to the sums, before and while rows are copied and after, rows are those of the sums."""
    rng = np.random.default_rng(3)
    sums = make_sums(GRAPH, rng, "learned")
    rows = ClusterRows(GRAPH)
    while not rows.ready:
        rows.copy_more(sums.edge, 3_000)
        for _ in range(2):
            change(GRAPH, sums, rows, rng)
    change(GRAPH, sums, rows, rng)
    for items in (rng.permutation(N_ITEMS)[:500], np.array([N_ITEMS - 1]), np.arange(0)):
        change(GRAPH, sums, rows, rng, items)
        np.testing.assert_array_equal(rows.rows, copied(GRAPH, sums).rows)
    unit = np.array([UNIT, UNIT**2, UNIT**2])
    np.testing.assert_array_equal(
        rows.rows[: GRAPH.n_edges], (sums.edge / unit)[GRAPH.cluster_edge].astype(np.float32)
    )


def change(
    graph: Graph, sums: Sums, rows: ClusterRows, rng: np.random.Generator, items: np.ndarray | None = None
) -> None:
    """New sums for some edges of some items, as a snapshot takes them over."""
    chosen = rng.permutation(graph.n_items)[:50] if items is None else items
    edges = (chosen[:, None] * DEGREE + np.arange(DEGREE)).ravel()
    new = sums.edge[edges] + rng.integers(0, 2, (len(edges), 1)) * np.array([3, 5, 1])
    rows.follow(graph.item_ptr, sums.edge, chosen.astype(np.int32), new)
    sums.edge[edges] = new


def test_rows_of_a_graph_of_too_many_edges_are_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are 32 bits: beyond, all items are scored as before."""
    monkeypatch.setattr("bandits.cluster_rows_numba.MOST_EDGES", GRAPH.n_edges - 1)
    sums = make_sums(GRAPH, np.random.default_rng(1), "learned")
    rows = ClusterRows(GRAPH)
    rows.copy_more(sums.edge)
    assert not rows.ready
    slates, user = CompiledSlates(GRAPH, sums), make_user(np.random.default_rng(1), 10)
    asked: dict[str, Any] = {"slate_size": 5, "seed": 1, "draws": lambda _: 1}
    got = ShortlistedSlates(slates, rows).fill_around(user, policy_of("ucb", PolicySettings()), **asked)
    expected = slates.fill_around(user, policy_of("ucb", PolicySettings()), **asked)
    assert got[0].tolist() == expected[0].tolist()


@pytest.mark.parametrize("mode", ["thompson", "uniform"])
def test_modes_without_lists_fill_the_same_slates(mode: str) -> None:
    """Modes whose scores nobody can bound go the way of all items, and so do slots that are drawn from all."""
    sums = make_sums(GRAPH, np.random.default_rng(1), "learned")
    slates, user = CompiledSlates(GRAPH, sums), make_user(np.random.default_rng(1), 10)
    listed = ShortlistedSlates(slates, copied(GRAPH, sums))
    for policy in (
        policy_of(mode, PolicySettings()),
        replace(policy_of("ucb", PolicySettings()), explore_share=0.5),
    ):
        got = listed.fill_around(user, policy, slate_size=5, seed=1, draws=lambda _: 1)
        expected = slates.fill_around(user, policy, slate_size=5, seed=1, draws=lambda _: 1)
        assert got[0].tolist() == expected[0].tolist()
        np.testing.assert_array_equal(got[1], expected[1])

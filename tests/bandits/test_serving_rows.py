"""Serving rows say what the sums say, through changes and edits; what they cannot say is read from the sums."""

from typing import Any

import numpy as np
import pytest

from bandits.context import Context
from bandits.edited_sums import moved_rows
from bandits.graph import Graph, build_graph
from bandits.graph_edit import GraphEdit, edited
from bandits.numba_serving_rows import MOST_EDGES
from bandits.policies import PolicySettings
from bandits.serving_rows_numba import MOST_CLUSTERS, ServingRows, row_starts
from bandits.slates_numba import CompiledSlates, compiled_policy
from bandits.sums import LARGEST, UNIT, Sums

N_CLUSTERS = 100
SIZES = [0, 1, 8, 31, 32, 33, MOST_EDGES, MOST_EDGES + 1, N_CLUSTERS]


def make_graph(n_items: int, rng: np.random.Generator, n_clusters: int = N_CLUSTERS) -> Graph:
    rows = [rng.choice(n_clusters, size, replace=False) for size in rng.choice(SIZES, n_items).tolist()]
    return build_graph(
        version="v",
        centroids=[],
        n_clusters=n_clusters,
        item_ids=[f"i{number}" for number in range(n_items)],
        edge_item=np.repeat(np.arange(n_items), [len(row) for row in rows]),
        edge_cluster=np.concatenate(rows),
    )


def make_sums(graph: Graph, rng: np.random.Generator, largest: int = 1 << 40) -> Sums:
    return Sums(
        rng.integers(0, largest, (graph.n_edges, 3)) >> [20, 0, 2], rng.integers(0, 1 << 30, (graph.n_items, 2))
    )


def everyone(slates: CompiledSlates, rng: np.random.Generator, mode: str) -> Any:
    """All items in an order of their own, with all their numbers."""
    k = int(rng.choice([1, 10, 64]))
    clusters = np.sort(rng.choice(N_CLUSTERS, k, replace=False)).astype(np.int32)
    items = np.arange(slates.graph.n_items, dtype=np.int32)
    policy = compiled_policy(mode, PolicySettings(), top_m=1, explore_share=0.0)
    assert policy is not None
    user = Context(clusters, rng.integers(1, UNIT, k) / UNIT)
    return slates.fill(items, user, policy, slate_size=0, seed=int(rng.integers(1 << 40)), redraws=1)


def assert_same(rows: CompiledSlates, sums: CompiledSlates, seed: int) -> None:
    for mode in ("exploit", "ucb", "thompson", "uniform"):
        one = everyone(rows, np.random.default_rng(seed), mode)
        other = everyone(sums, np.random.default_rng(seed), mode)
        for made, told in zip(one, other, strict=True):
            np.testing.assert_array_equal(made, told)


@pytest.mark.parametrize("at", [1 << 34, 1 << 47, LARGEST, -1])
def test_sums_that_a_row_cannot_hold_are_read_themselves(at: int) -> None:
    """The largest sums score as ever; so do those one below what a row holds, in each of the three."""
    rng = np.random.default_rng(7)
    graph = make_graph(60, rng)
    sums = make_sums(graph, rng)
    for column in range(3):
        for value in (at, at - 1):
            chosen = rng.random(graph.n_edges) < 0.02
            sums.edge[chosen, column] = max(value, -1)
    assert_same(CompiledSlates.following(graph, sums), CompiledSlates(graph, sums), 3)


def test_rows_follow_what_is_written_and_edited() -> None:
    """After any changes and edits scores are those of the sums, in the graph before the edit too."""
    rng = np.random.default_rng(5)
    graph = make_graph(200, rng)
    sums = make_sums(graph, rng)
    slates = CompiledSlates.following(graph, sums)
    for step in range(12):
        items = rng.choice(graph.n_items, 30, replace=False).astype(np.int32)
        for item in items.tolist():
            own = slice(graph.item_ptr[item], graph.item_ptr[item + 1])
            sums.edge[own] += rng.integers(0, 1 << 30, sums.edge[own].shape)
            sums.item[item] += rng.integers(0, 1 << 10, 2)
        slates.follow(items)
        assert_same(slates, CompiledSlates(graph, sums), step)
        ids = [f"i{number}" for number in rng.choice(graph.n_items, 3).tolist()] + [f"new{step}"]
        places = [np.sort(rng.choice(N_CLUSTERS, size, replace=False)) for size in (1, 20, 65, 100)]
        newer = edited(graph, GraphEdit(f"v{step}", list(dict.fromkeys(ids)), places[: len(dict.fromkeys(ids))]))
        edge_rows, item_rows = moved_rows(graph, sums, newer)
        longer = Sums(np.concatenate([sums.edge, edge_rows]), np.concatenate([sums.item, item_rows]))
        in_place = bool(step % 3) and slates.fits(newer)
        newer_slates = slates.extended(newer, longer, in_place=in_place)
        assert_same(newer_slates, CompiledSlates(newer, longer), step)
        assert_same(slates, CompiledSlates(graph, sums), step)
        graph, sums, slates = newer, longer, newer_slates


def test_rows_that_do_not_fit_in_place_say_so() -> None:
    """Whoever extends more than there is room for gets memory of its own."""
    rng = np.random.default_rng(5)
    graph = make_graph(10, rng)
    slates = CompiledSlates.following(graph, make_sums(graph, rng))
    many = [np.arange(40)] * 600
    assert slates.fits(edited(graph, GraphEdit("v2", ["n1"], many[:1])))
    assert not slates.fits(edited(graph, GraphEdit("v2", [f"n{number}" for number in range(600)], many)))


def test_too_many_clusters_are_scored_from_the_sums() -> None:
    """A row names clusters in 16 bits; a graph of more is served as it was."""
    graph = make_graph(5, np.random.default_rng(0), n_clusters=MOST_CLUSTERS + 1)
    sums = Sums.zeros(graph)
    assert ServingRows.of(graph, sums) is None
    slates = CompiledSlates.following(graph, sums)
    slates.follow(np.arange(5, dtype=np.int32))
    assert slates.fits(graph)
    assert len(everyone(slates, np.random.default_rng(0), "ucb")[0]) == 5


def test_the_highest_clusters_are_told_apart() -> None:
    """Clusters beyond 2^15 are not negative numbers, and 2^16 - 1 is not -1."""
    clusters = [0, 1, 1 << 15, (1 << 15) + 1, MOST_CLUSTERS - 1]
    graph = build_graph(
        version="v",
        centroids=[],
        n_clusters=MOST_CLUSTERS,
        item_ids=["i"],
        edge_item=[0] * 5,
        edge_cluster=clusters,
    )
    edge = np.array([[UNIT, UNIT * UNIT, b * UNIT * UNIT] for b in (1, 2, 4, 8, 16)], np.int64)
    slates = CompiledSlates.following(graph, Sums(edge, np.zeros((1, 2), np.int64)))
    policy = compiled_policy("exploit", PolicySettings(), top_m=1, explore_share=0.0)
    assert policy is not None
    one = np.zeros(1, np.int32)
    for chosen, mean in (([0, 1 << 15, MOST_CLUSTERS - 1], 21.0), ([1, 2, (1 << 15) + 1], 10.0)):
        user = Context(np.array(chosen, np.int32), np.ones(3))
        numbers = slates.fill(one, user, policy, slate_size=1, seed=1, redraws=1)[1]
        assert numbers[1, 0] == mean


def test_memory_of_an_item_is_what_is_said() -> None:
    """An item of 32 edges takes ten lines, one of 8 edges three, one of more than 64 its head alone."""
    starts, end = row_starts(np.cumsum([0, 32, 8, 65, 0]))
    assert [*starts.tolist(), end] == [0, 10, 13, 14, 15]

"""The graph in memory: both orientations hold the same edges, and no broken graph passes."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.graph import Graph, build_graph, check_graph

ARRAYS = ("centroids", "item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge")


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Numbers of items and clusters, and distinct (item, cluster) pairs in any order."""
    n_items, n_clusters = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    pairs = [(item, cluster) for item in range(n_items) for cluster in range(n_clusters)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return n_items, n_clusters, edges


def build(n_items: int, n_clusters: int, edges: list[tuple[int, int]], **changes: Any) -> Graph:
    fields: dict[str, Any] = {
        "version": "v1",
        "centroids": [],
        "n_clusters": n_clusters,
        "item_ids": [f"item-{number}" for number in range(n_items)],
        "edge_item": [item for item, _ in edges],
        "edge_cluster": [cluster for _, cluster in edges],
    }
    return build_graph(**fields | changes)


@given(case=edge_lists())
@settings(max_examples=150, deadline=None)
def test_both_orientations_hold_the_edges_given(case: tuple[int, int, list[tuple[int, int]]]) -> None:
    """Read by item or by cluster, the graph holds exactly the edges it was built from, in whatever order."""
    n_items, n_clusters, edges = case
    graph = build(n_items, n_clusters, edges)
    assert (graph.n_items, graph.n_clusters, graph.n_edges) == (n_items, n_clusters, len(edges))
    owner: dict[int, int] = {}
    for item in range(n_items):
        row = range(graph.item_ptr[item], graph.item_ptr[item + 1])
        assert graph.edge_cluster[row.start : row.stop].tolist() == sorted(c for i, c in edges if i == item)
        owner |= dict.fromkeys(row, item)
    for cluster in range(n_clusters):
        part = slice(graph.cluster_ptr[cluster], graph.cluster_ptr[cluster + 1])
        assert graph.cluster_item[part].tolist() == sorted(i for i, c in edges if c == cluster)
        assert [owner[edge] for edge in graph.cluster_edge[part].tolist()] == graph.cluster_item[part].tolist()
        assert (graph.edge_cluster[graph.cluster_edge[part]] == cluster).all()


@given(case=edge_lists(), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_the_order_of_edges_does_not_matter(case: tuple[int, int, list[tuple[int, int]]], seed: int) -> None:
    """Two builders that find the same edges in another order build the same graph."""
    n_items, n_clusters, edges = case
    graph = build(n_items, n_clusters, edges)
    shuffled = [edges[i] for i in np.random.default_rng(seed).permutation(len(edges))]
    other = build(n_items, n_clusters, shuffled)
    assert all(np.array_equal(getattr(graph, name), getattr(other, name)) for name in ARRAYS)


def test_arrays_have_the_dtypes_they_promise() -> None:
    """Kernels and artifacts rely on the dtypes, so an empty graph has them too."""
    for graph in (build(3, 2, [(0, 1), (2, 0)]), build(0, 0, []), build(3, 2, [])):
        dtypes = [getattr(graph, name).dtype for name in ARRAYS]
        assert dtypes == [np.float32, np.int64, np.int32, np.int64, np.int32, np.int64]


@given(case=edge_lists(), data=st.data())
@settings(max_examples=80, deadline=None)
def test_items_around_are_those_with_an_edge(
    case: tuple[int, int, list[tuple[int, int]]], data: st.DataObject
) -> None:
    """Candidates are each item once, ascending, that has an edge to any of the clusters."""
    n_items, n_clusters, edges = case
    graph = build(n_items, n_clusters, edges)
    chosen = data.draw(st.lists(st.integers(0, n_clusters - 1))) if n_clusters else []
    around = graph.items_around(np.array(chosen, np.int32))
    assert around.tolist() == sorted({item for item, cluster in edges if cluster in chosen})
    assert around.dtype == np.int32


def test_lookup_finds_known_ids_and_marks_unknown_ones() -> None:
    """An unknown id is -1, never another item, and repeats and order are kept."""
    graph = build(3, 1, [])
    found = graph.lookup(["item-2", "nobody", "item-0", "", "item-2", "ITEM-0"])
    assert found.tolist() == [2, -1, 0, -1, 2, -1]
    assert found.dtype == np.int32
    assert graph.lookup([]).dtype == np.int32


def test_item_hashes_follow_the_id_not_the_number() -> None:
    """An item keeps its hash when a new version of the graph numbers it otherwise."""
    graph = build(3, 1, [])
    other = build(2, 1, [], item_ids=["item-2", "item-0"])
    assert np.array_equal(graph.item_hashes[[2, 0]], other.item_hashes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": ""}, "version: expected a name"),
        ({"item_ids": ["a", "b", "a"]}, "item_ids: expected distinct ids, got 1 repeated"),
        ({"edge_item": [0, 3]}, "edge_item: expected 0 <= number < 3, got 3"),
        ({"edge_item": [0, -1]}, "edge_item: expected 0 <= number < 3, got -1"),
        ({"edge_cluster": [0, 2]}, "edge_cluster: expected 0 <= number < 2, got 2"),
        ({"edge_cluster": [-5, 1]}, "edge_cluster: expected 0 <= number < 2, got -5"),
        ({"edge_item": [1, 1], "edge_cluster": [0, 0]}, "got (cluster 0, item 1) more than once"),
        ({"edge_cluster": [0]}, "edge_item, edge_cluster: expected equal 1-d shapes, got (2,), (1,)"),
        ({"edge_item": [[0, 1]], "edge_cluster": [[0, 1]]}, "expected equal 1-d shapes"),
        ({"centroids": [1.0, 2.0]}, "centroids: expected shape (n_clusters, dim), got (2,)"),
        ({"centroids": [[1.0], [2.0], [3.0]]}, "centroids: expected 2 rows (n_clusters), got 3"),
        ({"centroids": [[1.0], [np.nan]]}, "centroids: expected finite values"),
        ({"centroids": [[1.0], [-np.inf]]}, "centroids: expected finite values"),
    ],
)
def test_arguments_that_make_no_graph_are_refused(changes: dict[str, Any], message: str) -> None:
    """A builder's mistake is named with the value that came."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build(3, 2, [(0, 0), (2, 1)], **changes)


def put(at: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[at] = value
        return array

    return change


# Of the graph of edges (item, cluster): (0, 0), (0, 2), (1, 1), (1, 2), (3, 0); items 2 and cluster 3 have none.
EDGES = [(0, 0), (0, 2), (1, 1), (1, 2), (3, 0)]
VIOLATIONS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("version", lambda _: "", "version: expected a name"),
    ("centroids", lambda a: a[:-1], "centroids: expected 4 rows"),
    ("centroids", np.ravel, "centroids: expected 4 rows"),
    ("centroids", lambda a: a * np.float32("nan"), "centroids: expected finite"),
    ("item_ids", lambda ids: [*ids[:-1], ids[0]], "item_ids: expected distinct"),
    ("item_ids", lambda ids: ids[:-1], "item_ptr: expected 4 ascending offsets"),
    ("item_ptr", lambda a: a[:-1], "item_ptr: expected 5 ascending offsets from 0 to 5"),
    ("item_ptr", put(0, 1), "item_ptr: expected"),
    ("item_ptr", put(-1, 4), "item_ptr: expected"),
    ("item_ptr", put(1, 5), "item_ptr: expected"),
    ("item_ptr", put(1, 1), "edge_cluster: expected clusters to ascend strictly within an item"),
    ("item_ptr", put(3, 5), "cluster_edge: expected the two orientations"),
    ("cluster_ptr", put(0, -1), "cluster_ptr: expected"),
    ("cluster_ptr", put(-1, 6), "cluster_ptr: expected"),
    ("cluster_ptr", put(1, 4), "cluster_ptr: expected"),
    ("cluster_ptr", put(2, 2), "cluster_item: expected items to ascend strictly within a cluster"),
    ("cluster_ptr", put(3, 4), "cluster_edge: expected the two orientations"),
    ("edge_cluster", put(4, 4), "edge_cluster: expected 0 <= number < 4, got 4"),
    ("edge_cluster", put(0, -1), "edge_cluster: expected 0 <= number < 4, got -1"),
    ("edge_cluster", put(0, 2), "edge_cluster: expected clusters to ascend strictly"),
    ("edge_cluster", put(4, 1), "cluster_edge: expected the two orientations"),
    ("cluster_item", put(0, 4), "cluster_item: expected 0 <= number < 4, got 4"),
    ("cluster_item", put(0, -1), "cluster_item: expected 0 <= number < 4, got -1"),
    ("cluster_item", put(0, 3), "cluster_item: expected items to ascend strictly"),
    ("cluster_item", put(2, 2), "cluster_edge: expected the two orientations"),
    ("cluster_item", lambda a: a[:-1], "cluster_item, cluster_edge: expected 5 edges"),
    ("cluster_edge", put(0, 5), "cluster_edge: expected 0 <= number < 5, got 5"),
    ("cluster_edge", put(0, -1), "cluster_edge: expected 0 <= number < 5, got -1"),
    ("cluster_edge", put(0, 1), "cluster_edge: expected the two orientations"),
    ("cluster_edge", lambda a: a[::-1].copy(), "cluster_edge: expected the two orientations"),
    ("cluster_edge", lambda a: a[1:], "cluster_item, cluster_edge: expected 5 edges"),
]


@pytest.mark.parametrize(("name", "change", "message"), VIOLATIONS)
def test_every_broken_invariant_is_named(name: str, change: Callable[[Any], Any], message: str) -> None:
    """A graph that would score the wrong edges is refused with the array at fault."""
    graph = build(4, 4, EDGES, centroids=np.ones((4, 2)))
    check_graph(graph)
    fields = {key: getattr(graph, key) for key in ("version", "item_ids", *ARRAYS)}
    broken = Graph(**fields | {name: change(fields[name])})
    with pytest.raises(ValueError, match=re.escape(message)):
        check_graph(broken)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_changed_element_passes(data: st.DataObject) -> None:
    """Whichever single element of whichever structure array changes, the graph is no longer a graph."""
    graph = build(4, 4, EDGES)
    name = data.draw(st.sampled_from(ARRAYS[1:]))
    array = getattr(graph, name)
    at = data.draw(st.integers(0, len(array) - 1))
    value = data.draw(st.integers(-3, 8) | st.sampled_from([-(2**31), 2**31 - 1]))
    if value == array[at]:
        return
    fields = {key: getattr(graph, key) for key in ("version", "item_ids", *ARRAYS)}
    with pytest.raises(ValueError, match="expected"):
        check_graph(Graph(**fields | {name: put(at, value)(array)}))

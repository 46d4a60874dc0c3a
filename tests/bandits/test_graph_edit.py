"""Adding and retiring items leaves everything else as it was."""

import numpy as np
import pytest

from bandits.context import InvalidContext
from bandits.graph import Graph, build_graph, check_graph
from bandits.graph_edit import nearest_clusters, with_items, without_items


def edges_of(graph: Graph) -> dict[str, list[int]]:
    """Clusters of each item, from the item-major side."""
    return {
        item_id: graph.edge_cluster[graph.item_ptr[j] : graph.item_ptr[j + 1]].tolist()
        for j, item_id in enumerate(graph.item_ids)
    }


def random_graph(rng: np.random.Generator, *, n_items: int, n_clusters: int) -> Graph:
    dense = rng.random((n_items, n_clusters)) < 0.4
    edge_item, edge_cluster = np.nonzero(dense)
    return build_graph(
        version="v1",
        centroids=rng.normal(size=(n_clusters, 3)),
        item_ids=[f"item-{j}" for j in range(n_items)],
        edge_item=edge_item,
        edge_cluster=edge_cluster,
    )


@pytest.mark.parametrize("seed", range(5))
def test_edits_equal_the_same_edits_of_a_dict(seed: int) -> None:
    """Upserts and retirements in any order give the graph that a plain dict of rows would, in both orientations."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=12, n_clusters=6)
    model = edges_of(graph)
    for step in range(40):
        ids = [f"item-{j}" for j in rng.choice(20, size=rng.integers(1, 6), replace=False)]
        if rng.random() < 0.5:
            rows = [np.sort(rng.choice(6, size=rng.integers(0, 5), replace=False)).tolist() for _ in ids]
            graph = with_items(graph, version=f"v1+{step}", item_ids=ids, clusters=rows)
            model.update(zip(ids, rows, strict=True))
        else:
            graph = without_items(graph, ids, version=f"v1+{step}")
            model = {item_id: row for item_id, row in model.items() if item_id not in ids}
        assert edges_of(graph) == model, f"seed {seed}, step {step}"
        check_graph(graph)
        assert graph.version == f"v1+{step}"


def test_the_graph_that_was_edited_is_not_touched() -> None:
    """Replies that still hold the old version read it unchanged."""
    graph = random_graph(np.random.default_rng(0), n_items=5, n_clusters=4)
    before = edges_of(graph)
    with_items(graph, version="v2", item_ids=["item-0", "new"], clusters=[[1], [0, 2]])
    without_items(graph, ["item-1"], version="v3")
    assert edges_of(graph) == before


def test_all_items_can_be_retired() -> None:
    """An empty catalogue is a graph too."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    empty = without_items(graph, graph.item_ids, version="v2")
    assert (empty.n_items, empty.n_edges, empty.n_clusters) == (0, 0, 4)


def test_a_graph_without_centroids_keeps_its_clusters() -> None:
    """Where callers send cluster weights only, the number of clusters survives an edit."""
    graph = build_graph(version="v1", centroids=[], n_clusters=7, item_ids=["a"], edge_item=[0], edge_cluster=[6])
    assert with_items(graph, version="v2", item_ids=["b"], clusters=[[0]]).n_clusters == 7


@pytest.mark.parametrize(
    ("row", "message"), [([4], "0 <= number < 4, got 4"), ([-1], "got -1"), ([1, 1], "distinct")]
)
def test_a_bad_cluster_is_named(row: list[int], message: str) -> None:
    """A row that is no set of clusters never becomes a graph."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(ValueError, match=message):
        with_items(graph, version="v2", item_ids=["new"], clusters=[row])


def test_a_repeated_id_is_refused() -> None:
    """An item has one row."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(ValueError, match="distinct ids, got 1 repeated"):
        with_items(graph, version="v2", item_ids=["new", "new"], clusters=[[1], [2]])


def test_dtypes_are_those_of_a_built_graph() -> None:
    """Compiled code and artifacts rely on them."""
    graph = random_graph(np.random.default_rng(0), n_items=5, n_clusters=4)
    for edited in (
        with_items(graph, version="v2", item_ids=["new"], clusters=[[2, 1]]),
        without_items(graph, ["item-1"], version="v3"),
    ):
        for name in ("centroids", "item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge"):
            assert getattr(edited, name).dtype == getattr(graph, name).dtype, name


def test_a_new_item_goes_to_its_nearest_centroids() -> None:
    """A new item gets as many edges as items have on average, to the centroids of highest inner product."""
    rng = np.random.default_rng(1)
    graph = random_graph(rng, n_items=30, n_clusters=8)
    embedding = rng.normal(size=3).astype(np.float32)
    expected = np.sort(np.argsort(-(graph.centroids @ embedding))[: round(graph.n_edges / graph.n_items)])
    assert nearest_clusters(graph, embedding[None, :])[0].tolist() == expected.tolist()


def test_an_embedding_of_another_size_is_refused() -> None:
    """The size is named before anything is attached."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(InvalidContext, match="3 numbers"):
        nearest_clusters(graph, np.ones((1, 2)))

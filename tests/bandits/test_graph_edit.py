"""Adding and retiring items leaves everything else as it was."""

from collections.abc import Sequence

import numpy as np
import pytest

from bandits.context import InvalidContext
from bandits.graph import Graph, build_graph, check_graph
from bandits.graph_edit import GraphEdit, compacted, edited, nearest_clusters
from bandits.hashing import hash_strings

KNOWN = [f"item-{j}" for j in range(20)]


def edges_of(graph: Graph) -> dict[str, list[int]]:
    """Clusters of each item, from the item-major side."""
    return {
        item_id: graph.edge_cluster[graph.item_ptr[j] : graph.item_ptr[j + 1]].tolist()
        for item_id, j in graph.index.items()
    }


def around(graph: Graph) -> dict[str, list[int]]:
    """Clusters of each item that has some, from the cluster-major side."""
    found: dict[str, list[int]] = {}
    for cluster in range(graph.n_clusters):
        for number in graph.items_around(np.array([cluster], np.int32)).tolist():
            found.setdefault(graph.item_ids[number], []).append(cluster)
    return found


def upsert(version: str, rows: dict[str, list[int]]) -> GraphEdit:
    return GraphEdit(version=version, item_ids=[*rows], clusters=[*rows.values()])


def retire(version: str, item_ids: Sequence[str]) -> GraphEdit:
    return GraphEdit(version=version, retired=item_ids)


def check_equal(graph: Graph, model: dict[str, list[int]], known: Sequence[str]) -> None:
    """Every way of asking the graph says what the model says."""
    assert edges_of(graph) == model
    assert around(graph) == {item_id: row for item_id, row in model.items() if row}
    assert graph.n_live_items == len(model)
    found = graph.lookup(known)
    assert [number >= 0 for number in found.tolist()] == [item_id in model for item_id in known]
    assert all(graph.item_ids[n] == name for n, name in zip(found.tolist(), known, strict=True) if n >= 0)
    hashes = hash_strings(graph.item_ids)
    assert np.array_equal(graph.item_hashes, hashes)


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


def random_edit(rng: np.random.Generator, version: str) -> tuple[GraphEdit, dict[str, list[int]], list[str]]:
    ids = [KNOWN[j] for j in rng.choice(len(KNOWN), size=rng.integers(1, 6), replace=False)]
    cut = int(rng.integers(0, len(ids) + 1))
    rows = {i: np.sort(rng.choice(6, size=rng.integers(0, 5), replace=False)).tolist() for i in ids[:cut]}
    return GraphEdit(version, [*rows], [*rows.values()], retired=ids[cut:]), rows, ids[cut:]


@pytest.mark.parametrize("seed", range(8))
def test_edits_equal_the_same_edits_of_a_dict(seed: int) -> None:
    """Upserts and retirements in any order give the graph that a plain dict of rows would, in both orientations,
    and so does the graph that is built anew from it."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=12, n_clusters=6)
    model = edges_of(graph)
    for step in range(40):
        edit, rows, gone = random_edit(rng, f"v1+{step}")
        graph = edited(graph, edit)
        model = {name: row for name, row in (model | rows).items() if name not in gone}
        check_equal(graph, model, KNOWN)
        whole = compacted(graph)
        check_graph(whole)
        check_equal(whole, model, KNOWN)
        assert graph.version == whole.version == f"v1+{step}"
        if rng.random() < 0.1:
            graph = whole


@pytest.mark.parametrize("seed", range(4))
def test_edits_at_once_number_items_as_one_by_one(seed: int) -> None:
    """A store replays its edits in one go; rows belong to edges by number."""
    rng = np.random.default_rng(seed)
    start = random_graph(rng, n_items=12, n_clusters=6)
    edits = [random_edit(rng, f"v1+{step}")[0] for step in range(30)]
    one_by_one = start
    for edit in edits:
        one_by_one = edited(one_by_one, edit)
    at_once = edited(start, *edits)
    for name in ("item_ptr", "edge_cluster", "item_hashes"):
        assert np.array_equal(getattr(at_once, name), getattr(one_by_one, name)), (seed, name)
    assert at_once.item_ids == one_by_one.item_ids
    assert np.array_equal(at_once.lookup(KNOWN, retired=True), one_by_one.lookup(KNOWN, retired=True))
    check_equal(at_once, edges_of(one_by_one), KNOWN)


@pytest.mark.parametrize("seed", range(4))
def test_versions_that_are_still_read_do_not_change(seed: int) -> None:
    """Replies that still hold an old version read it unchanged, though versions share arrays, even where two edits
    start from one version."""
    rng = np.random.default_rng(seed)
    versions = [random_graph(rng, n_items=12, n_clusters=6)]
    models = [edges_of(versions[0])]
    for step in range(25):
        at = int(rng.integers(max(0, len(versions) - 3), len(versions)))
        edit, rows, gone = random_edit(rng, f"v1+{step}")
        versions.append(edited(versions[at], edit))
        models.append({name: row for name, row in (models[at] | rows).items() if name not in gone})
    for graph, model in zip(versions, models, strict=True):
        check_equal(graph, model, KNOWN)


def test_what_an_item_is_already_costs_no_number() -> None:
    """A catalogue that is read again must not renumber its items."""
    graph = random_graph(np.random.default_rng(0), n_items=5, n_clusters=4)
    again = edited(graph, GraphEdit("v2", ["item-1", "item-2"], [edges_of(graph)["item-1"], [0, 1, 2, 3]]))
    assert (again.n_items, again.n_live_items) == (6, 5)
    assert again.lookup(["item-1"]) == graph.lookup(["item-1"])
    dated = edited(again, GraphEdit("v3", ["item-2"], [[3, 2, 1, 0]], published_ms=[7]))
    assert dated.published_ms is not None
    assert dated.published_ms[dated.lookup(["item-2"])[0]] == 7
    assert edited(dated, GraphEdit("v4", ["item-2"], [[3, 2, 1, 0]], published_ms=[7])).n_items == dated.n_items


def test_a_retired_item_keeps_its_number_for_its_sums() -> None:
    """Who asks for candidates does not find it; who keeps sums does, until the graph is built anew."""
    graph = random_graph(np.random.default_rng(0), n_items=5, n_clusters=4)
    gone = edited(graph, retire("v2", ["item-1", "nobody"]))
    assert gone.lookup(["item-1"]).tolist() == [-1]
    assert gone.lookup(["item-1", "nobody"], retired=True).tolist() == [1, -1]
    assert gone.edits is not None
    assert gone.edits.in_use.all()
    assert compacted(gone).lookup(["item-1"], retired=True).tolist() == [-1]
    back = edited(gone, upsert("v3", {"item-1": [2]}))
    assert back.edits is not None
    assert back.edits.in_use.tolist() == [True, False, True, True, True, True]


def test_all_items_can_be_retired() -> None:
    """An empty catalogue is a graph too."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    empty = edited(graph, retire("v2", graph.item_ids))
    assert (empty.n_live_items, empty.n_clusters) == (0, 4)
    whole = compacted(empty)
    check_graph(whole)
    assert (whole.n_items, whole.n_edges, whole.n_clusters) == (0, 0, 4)


def test_a_graph_without_centroids_keeps_its_clusters() -> None:
    """Where callers send cluster weights only, the number of clusters survives an edit."""
    graph = build_graph(version="v1", centroids=[], n_clusters=7, item_ids=["a"], edge_item=[0], edge_cluster=[6])
    assert compacted(edited(graph, upsert("v2", {"b": [0]}))).n_clusters == 7


@pytest.mark.parametrize(
    ("row", "message"), [([4], "0 <= number < 4, got 4"), ([-1], "got -1"), ([1, 1], "distinct")]
)
def test_a_bad_cluster_is_named(row: list[int], message: str) -> None:
    """A row that is no set of clusters never becomes a graph."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(ValueError, match=message):
        edited(graph, upsert("v2", {"new": row}))


@pytest.mark.parametrize(
    "edit",
    [
        GraphEdit("v2", ["new", "new"], [[1], [2]]),
        GraphEdit("v2", ["new"], [[1]], retired=["new"]),
        GraphEdit("v2", retired=["item-1", "item-1"]),
    ],
)
def test_a_repeated_id_is_refused(edit: GraphEdit) -> None:
    """An item has one row, and is not added and taken out at once."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(ValueError, match="distinct ids"):
        edited(graph, edit)


def test_dtypes_are_those_of_a_built_graph() -> None:
    """Compiled code and artifacts rely on them."""
    graph = random_graph(np.random.default_rng(0), n_items=5, n_clusters=4)
    new = edited(graph, upsert("v2", {"new": [2, 1]}), retire("v3", ["item-1"]))
    for version in (new, compacted(new)):
        for name in ("centroids", "item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge"):
            assert getattr(version, name).dtype == getattr(graph, name).dtype, name
            assert not getattr(version, name).flags.writeable, name


def test_a_new_item_goes_to_its_nearest_centroids() -> None:
    """A new item gets as many edges as linked items have on average, to the centroids of highest inner product."""
    rng = np.random.default_rng(1)
    graph = random_graph(rng, n_items=30, n_clusters=8)
    embedding = rng.normal(size=3).astype(np.float32)
    linked = np.diff(graph.item_ptr)[np.diff(graph.item_ptr) > 0]
    expected = np.sort(np.argsort(-(graph.centroids @ embedding))[: round(linked.mean())])
    assert nearest_clusters(graph, embedding[None, :])[0].tolist() == expected.tolist()


def test_items_without_a_cluster_do_not_thin_out_new_ones() -> None:
    """Where most of a corpus is in no cluster, a new item is linked as those are that can be shown."""
    ids = [f"item-{number}" for number in range(100)]
    edges = np.repeat(np.arange(5, dtype=np.int32), 4), np.tile(np.arange(4, dtype=np.int32), 5)
    graph = build_graph(
        version="v1", centroids=np.eye(4, dtype=np.float32), item_ids=ids, edge_item=edges[0], edge_cluster=edges[1]
    )
    assert nearest_clusters(graph, np.ones((1, 4), np.float32)).tolist() == [[0, 1, 2, 3]]


def test_an_embedding_of_another_size_is_refused() -> None:
    """The size is named before anything is attached."""
    graph = random_graph(np.random.default_rng(0), n_items=3, n_clusters=4)
    with pytest.raises(InvalidContext, match="3 numbers"):
        nearest_clusters(graph, np.ones((1, 2)))

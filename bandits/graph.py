"""The sparse bipartite graph of clusters and items, in both orientations.

Invariants: within an item's row clusters ascend strictly; `cluster_edge[k]` is the item-major number of the
k-th cluster-major edge, so both orientations share one array of sums; arrays are read-only once built.

A graph that was edited (`bandits.graph_edit`) shares the arrays of the one it came from: changed items have new
numbers behind the old ones, `edits` says which numbers still count, and the cluster-major arrays are those of the
graph before any edit. `lookup` and `items_around` know all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned
from bandits.hashing import hash_strings
from bandits.text_index import TextIndex
from bandits.texts import Texts

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Edits:
    """What has been edited since a graph was built.

    Attributes:
        base: the graph before any edit.
        numbers: number of each item that was added, changed or retired since; -1 if retired.
        kept: of the retired items, the number under which their sums are kept.
        live: bool of shape (n_items,), False for numbers that no longer stand for an item.
        attached: numbers of added and changed items by cluster, ascending int32; all that were ever attached.
        storage: what `bandits.graph_edit` extends next.
    """

    base: "Graph"
    numbers: Mapping[str, int]
    kept: Mapping[str, int]
    live: Bool
    attached: Mapping[int, Int32]
    storage: object

    @property
    def in_use(self) -> Bool:
        """Numbers whose sums count: of live items, and of retired ones; bool of shape (n_items,)."""
        used = self.live.copy()
        used[np.fromiter(self.kept.values(), np.int64, len(self.kept))] = True
        return used


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable version of the graph.

    Item-major orientation (learning, scoring): the edges of item j are `item_ptr[j]:item_ptr[j+1]`, their
    clusters `edge_cluster`. Cluster-major orientation (retrieval): the edges of cluster c are
    `cluster_ptr[c]:cluster_ptr[c+1]`, their items `cluster_item` and item-major numbers `cluster_edge`.

    Attributes:
        version: name of this version, stated in every reply.
        centroids: float32 of shape (n_clusters, dim); dim is 0 where callers send cluster weights only.
        item_ids: external ids; the position in this list is the item's number.
        item_ptr: int64 of shape (n_items + 1,).
        edge_cluster: int32 of shape (n_edges,), ascending within an item.
        cluster_ptr: int64 of shape (n_clusters + 1,).
        cluster_item: int32 of shape (n_edges,), ascending within a cluster.
        cluster_edge: int64 of shape (n_edges,).
        published_ms: int64 of shape (n_items,), when each item was published, Unix milliseconds, 0 where that is
            not known; None = of no item.
        edits: since the graph was built; None = none.
    """

    version: str
    centroids: Float32
    item_ids: Sequence[str]
    item_ptr: Int64
    edge_cluster: Int32
    cluster_ptr: Int64
    cluster_item: Int32
    cluster_edge: Int64
    published_ms: Int64 | None = None
    edits: Edits | None = None

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.cluster_ptr) - 1

    @property
    def n_items(self) -> int:
        """Number of item numbers: of items, and in an edited graph of what is left of changed and retired ones."""
        return len(self.item_ptr) - 1

    @cached_property
    def n_live_items(self) -> int:
        """Number of items."""
        return self.n_items if self.edits is None else int(np.count_nonzero(self.edits.live))

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.edge_cluster)

    @cached_property
    def n_live_edges(self) -> int:
        """Number of edges of items."""
        return self.n_edges if self.edits is None else int(np.diff(self.item_ptr)[self.edits.live].sum())

    @cached_property
    def n_linked_items(self) -> int:
        """Number of items that have an edge."""
        return int(np.count_nonzero(np.diff(self.item_ptr)))

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of each item id."""
        if self.edits is not None:
            merged = dict(self.edits.base.index) | dict(self.edits.numbers)
            return {item_id: number for item_id, number in merged.items() if number >= 0}
        return dict(zip(self.item_ids, range(self.n_items), strict=True))

    @cached_property
    def text_index(self) -> TextIndex:
        """Number of each item id, for ids that are columns of bytes; of a graph without edits."""
        return TextIndex(Texts.of(self.item_ids))

    @cached_property
    def item_hashes(self) -> npt.NDArray[np.uint64]:
        """Two independent 64-bit hashes of each item id, uint64 of shape (n_items, 2)."""
        return hash_strings(self.item_ids)

    def lookup(self, item_ids: Sequence[str], *, retired: bool = False) -> Int32:
        """Item numbers of external ids, int32 of shape (len(item_ids),); -1 where there is no such item.

        Args:
            item_ids: external ids.
            retired: find retired items too, by the number under which their sums are kept.
        """
        edits = self.edits
        if edits is None and isinstance(item_ids, Texts):
            return self.text_index.find(item_ids)
        if edits is None:
            get = self.index.get
            return np.array([get(item_id, -1) for item_id in item_ids], dtype=np.int32)
        changed, get = edits.numbers, edits.base.index.get
        found = [changed[item_id] if item_id in changed else get(item_id, -1) for item_id in item_ids]
        if retired and edits.kept:
            kept = edits.kept.get
            found = [kept(item_id, number) for item_id, number in zip(item_ids, found, strict=True)]
        return np.array(found, dtype=np.int32)

    def items_around(self, cluster_ids: Int32) -> Int32:
        """Distinct items with an edge to any of the clusters, ascending int32."""
        rows = [self.cluster_item[self.cluster_ptr[c] : self.cluster_ptr[c + 1]] for c in cluster_ids]
        if not rows:
            return np.empty(0, np.int32)
        if self.edits is None:
            return np.unique(np.concatenate(rows))
        attached = self.edits.attached
        rows += [attached[c] for c in cluster_ids.tolist() if c in attached]
        items = np.unique(np.concatenate(rows))
        return items[self.edits.live[items]]


def build_graph(
    *,
    version: str,
    centroids: npt.ArrayLike,
    item_ids: Sequence[str],
    edge_item: npt.ArrayLike,
    edge_cluster: npt.ArrayLike,
    n_clusters: int | None = None,
) -> Graph:
    """Build a graph from a list of edges in any order.

    Args:
        version: name of the version, not empty.
        centroids: float of shape (n_clusters, dim); an empty list where callers send cluster weights only.
        item_ids: distinct external ids.
        edge_item: item number of each edge, of shape (n_edges,).
        edge_cluster: cluster number of each edge, parallel to `edge_item`.
        n_clusters: needed only where `centroids` is empty.

    Raises:
        ValueError: an id or number is repeated or out of range; the message names it.

    Examples:
        >>> graph = build_graph(
        ...     version="v1", centroids=[], n_clusters=2, item_ids=["a", "b"],
        ...     edge_item=[1, 0, 1], edge_cluster=[1, 0, 0],
        ... )
        >>> graph.edge_cluster.tolist(), graph.item_ptr.tolist()
        ([0, 0, 1], [0, 1, 3])
        >>> graph.items_around(np.array([1], np.int32)).tolist()
        [1]
    """
    centers = np.array(centroids, dtype=np.float32)  # a copy: the caller's array is not ours to freeze
    if centers.size == 0:
        centers = np.empty((n_clusters or 0, 0), np.float32)
    if centers.ndim != 2:
        raise ValueError(f"centroids: expected shape (n_clusters, dim), got {centers.shape}")
    if n_clusters is not None and len(centers) != n_clusters:
        raise ValueError(f"centroids: expected {n_clusters} rows (n_clusters), got {len(centers)}")
    items = _whole("edge_item", edge_item)
    clusters = _whole("edge_cluster", edge_cluster)
    if items.shape != clusters.shape or items.ndim != 1:
        raise ValueError(f"edge_item, edge_cluster: expected equal 1-d shapes, got {items.shape}, {clusters.shape}")
    _check_range("edge_item", items, len(item_ids))
    _check_range("edge_cluster", clusters, len(centers))

    order = np.lexsort((clusters, items))
    items, clusters = items[order], clusters[order]
    same = (items[1:] == items[:-1]) & (clusters[1:] == clusters[:-1])
    if same.any():
        at = int(np.argmax(same))
        raise ValueError(f"edges: expected distinct, got (cluster {clusters[at]}, item {items[at]}) more than once")
    by_cluster = np.lexsort((items, clusters))
    graph = Graph(
        version=version,
        centroids=centers,
        item_ids=list(item_ids),
        item_ptr=_pointers(items, len(item_ids)),
        edge_cluster=aligned(clusters.astype(np.int32)),
        cluster_ptr=_pointers(clusters[by_cluster], len(centers)),
        cluster_item=items[by_cluster].astype(np.int32),
        cluster_edge=by_cluster.astype(np.int64),
    )
    check_graph(graph)
    for array in (graph.centroids, graph.item_ptr, graph.edge_cluster):
        array.setflags(write=False)
    for array in (graph.cluster_ptr, graph.cluster_item, graph.cluster_edge):
        array.setflags(write=False)
    return graph


def check_graph(graph: Graph) -> None:
    """Raise ValueError, naming the array, unless every invariant of `Graph` holds."""
    n_items, n_clusters, n_edges = graph.n_items, graph.n_clusters, graph.n_edges
    if not graph.version:
        raise ValueError("version: expected a name, got an empty string")
    if graph.edits is not None:
        raise ValueError("edits: expected a graph without edits, got an edited one")
    if len(graph.item_ids) != n_items:
        raise ValueError(f"item_ptr: expected {len(graph.item_ids) + 1} ascending offsets from 0 to {n_edges}")
    if graph.published_ms is not None and graph.published_ms.shape != (n_items,):
        raise ValueError(f"published_ms: expected shape ({n_items},), got {graph.published_ms.shape}")
    if graph.centroids.ndim != 2 or len(graph.centroids) != n_clusters:
        raise ValueError(f"centroids: expected {n_clusters} rows, got shape {graph.centroids.shape}")
    if not np.isfinite(graph.centroids).all():
        raise ValueError("centroids: expected finite values, got NaN or infinity")
    if len(graph.index) != n_items:
        raise ValueError(f"item_ids: expected distinct ids, got {n_items - len(graph.index)} repeated")
    if "" in graph.index:
        raise ValueError(f"item_ids[{graph.index['']}]: expected a name, got an empty string")
    _check_pointers("item_ptr", graph.item_ptr, n_items, n_edges)
    _check_pointers("cluster_ptr", graph.cluster_ptr, n_clusters, n_edges)
    _check_range("edge_cluster", graph.edge_cluster, n_clusters)
    _check_range("cluster_item", graph.cluster_item, n_items)
    _check_range("cluster_edge", graph.cluster_edge, n_edges)
    if len(graph.cluster_item) != n_edges or len(graph.cluster_edge) != n_edges:
        raise ValueError(f"cluster_item, cluster_edge: expected {n_edges} edges as in edge_cluster")
    if not _ascending_rows(graph.edge_cluster, graph.item_ptr):
        raise ValueError("edge_cluster: expected clusters to ascend strictly within an item")
    if not _ascending_rows(graph.cluster_item, graph.cluster_ptr):
        raise ValueError("cluster_item: expected items to ascend strictly within a cluster")
    owner = np.repeat(np.arange(n_items, dtype=np.int32), np.diff(graph.item_ptr))
    column = np.repeat(np.arange(n_clusters, dtype=np.int32), np.diff(graph.cluster_ptr))
    same_items = np.array_equal(owner[graph.cluster_edge], graph.cluster_item)
    if not same_items or not np.array_equal(graph.edge_cluster[graph.cluster_edge], column):
        raise ValueError("cluster_edge: expected the two orientations to hold the same edges")


def _whole(name: str, numbers: npt.ArrayLike) -> Int64:
    given = np.asarray(numbers)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{name}: expected whole numbers, got dtype {given.dtype}")
    return given.astype(np.int64)


def _pointers(sorted_numbers: Int64, rows: int) -> Int64:
    return np.searchsorted(sorted_numbers, np.arange(rows + 1)).astype(np.int64)


def _check_range(name: str, values: npt.NDArray[np.integer], end: int) -> None:
    if len(values) and (values.min() < 0 or values.max() >= end):
        bad = values[(values < 0) | (values >= end)][0]
        raise ValueError(f"{name}: expected 0 <= number < {end}, got {bad}")


def _check_pointers(name: str, pointers: Int64, rows: int, edges: int) -> None:
    right_ends = len(pointers) == rows + 1 and pointers[0] == 0 and pointers[-1] == edges
    if not right_ends or (pointers[1:] < pointers[:-1]).any():  # a difference could overflow
        raise ValueError(f"{name}: expected {rows + 1} ascending offsets from 0 to {edges}")


def _ascending_rows(values: Int32, pointers: Int64) -> bool:
    steps = np.diff(values) > 0
    starts = pointers[1:-1]
    starts = starts[(starts > 0) & (starts < len(values))]
    steps[starts - 1] = True
    return bool(steps.all())

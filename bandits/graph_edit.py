"""A graph with some items added, changed or taken out, without building it anew.

Invariants: the graph that was edited is not touched, though the new one shares its arrays; an edit costs what it
changes, plus some bytes an item and an entry for each item edited since the build; equal edits in the same
order give the same numbers, one by one or several at a time. An item that is changed gets a new number, a retired
one keeps its number for its sums alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bandits.arena import ranges
from bandits.context import resolve_embeddings
from bandits.graph import Edits, Graph, Int32, Int64
from bandits.growing import Growing
from bandits.hashing import hash_strings


@dataclass(frozen=True, eq=False)
class GraphEdit:
    """One change of the catalogue.

    Attributes:
        version: name of the graph after it.
        item_ids: external ids of the items to be added, or attached elsewhere; distinct.
        clusters: for each of them, the clusters it is attached to, in any order.
        published_ms: for each of them, when it was published, Unix milliseconds; empty = 0, which is not known.
        retired: external ids of items to be taken out; those that the graph does not have are passed over.
    """

    version: str
    item_ids: Sequence[str] = ()
    clusters: Sequence[npt.ArrayLike] = ()
    published_ms: Sequence[int] = ()
    retired: Sequence[str] = ()


def edited(graph: Graph, *edits: GraphEdit) -> Graph:
    """The graph after some edits, one after the other.

    An item that comes with the clusters and the time it has already is passed over.

    Args:
        graph: the graph to start from.
        edits: at least one.

    Raises:
        ValueError: a cluster is out of range or repeated within an item, an id is empty or repeated within an edit.
    """
    draft = _Draft(graph)
    for edit in edits:
        draft.take(edit)
    return draft.graph(edits[-1].version)


def compacted(graph: Graph) -> Graph:
    """The same graph built anew, without what is left of changed and retired items.

    Items keep their order: rows of sums are those of `graph` less the rows of numbers that are not live.
    """
    edits = graph.edits
    if edits is None:
        return graph
    live, degrees = edits.live, np.diff(graph.item_ptr)
    item_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(degrees[live])])
    edge_cluster = graph.edge_cluster[np.repeat(live, degrees)]
    by_item = sparse.csr_matrix(
        (np.arange(len(edge_cluster)), edge_cluster, item_ptr), shape=(len(item_ptr) - 1, graph.n_clusters)
    )
    by_cluster = by_item.tocsc()  # a counting sort
    whole = Graph(
        version=graph.version,
        centroids=graph.centroids,
        item_ids=[graph.item_ids[number] for number in np.flatnonzero(live).tolist()],
        item_ptr=item_ptr,
        edge_cluster=edge_cluster,
        cluster_ptr=by_cluster.indptr.astype(np.int64),
        cluster_item=by_cluster.indices.astype(np.int32),
        cluster_edge=by_cluster.data.astype(np.int64),
        published_ms=None if graph.published_ms is None else graph.published_ms[live],
    )
    for array in (whole.item_ptr, whole.edge_cluster, whole.cluster_ptr, whole.cluster_item, whole.cluster_edge):
        array.setflags(write=False)
    vars(whole)["item_hashes"] = graph.item_hashes[live]
    return whole


def nearest_clusters(graph: Graph, embeddings: npt.ArrayLike) -> Int32:
    """The clusters a new item is attached to: its nearest centroids by inner product, as many as items have here.

    A rebuild attaches an item where it is among a centroid's best; one new item alone cannot know that, so it gets
    the mean number of edges of an item that has any: with fewer it could never earn what others do, as a cluster
    that it is not in adds nothing to its mean.

    Args:
        graph: says the centroids.
        embeddings: of shape (n, dim), finite, no row all zero.

    Returns:
        int32 of shape (n, k), ascending in each row.

    Raises:
        InvalidContext: a row is not a finite direction of the centroids' dimension.
    """
    built = graph.edits.base if graph.edits else graph
    mean_degree = max(1, round(built.n_edges / max(1, built.n_linked_items)))
    return resolve_embeddings(embeddings, graph.centroids, k=mean_degree, temperature=1.0)[0]


def edges_of(graph: Graph, items: npt.NDArray[np.integer]) -> Int64:
    """Numbers of the edges of some items, concatenated in their order."""
    starts = graph.item_ptr[items]
    return ranges(starts, graph.item_ptr[items + 1] - starts)


@dataclass(frozen=True, eq=False)
class _Storage:
    """The arrays that edits of a graph grow."""

    item_ptr: Growing
    edge_cluster: Growing
    item_hashes: Growing


class _Draft:
    """A graph while it is edited."""

    def __init__(self, graph: Graph) -> None:
        edits = graph.edits
        self._old = graph
        self._base = edits.base if edits else graph
        self._numbers = dict(edits.numbers) if edits else {}
        self._kept = dict(edits.kept) if edits else {}
        self._dead: list[int] = []
        self._ids: list[str] = []
        self._rows: list[Int64] = []
        self._published: list[int] = []

    def take(self, edit: GraphEdit) -> None:
        """Apply one edit."""
        if len({*edit.item_ids, *edit.retired}) != len(edit.item_ids) + len(edit.retired):
            raise ValueError("item_ids, retired: expected distinct ids, got one more than once")
        if "" in edit.item_ids:
            raise ValueError("item_ids: expected a name, got an empty string")
        rows = [_checked_row(row, self._old.n_clusters) for row in edit.clusters]
        published = edit.published_ms or [0] * len(rows)
        for item_id, row, at_ms in zip(edit.item_ids, rows, published, strict=True):
            number = self._number(item_id)
            if number < 0 or not self._is(number, row, at_ms):
                self._put(item_id, number, row, at_ms)
        for item_id in edit.retired:
            number = self._number(item_id)
            if number >= 0:
                self._dead.append(number)
                self._numbers[item_id] = -1
                self._kept[item_id] = number

    def graph(self, version: str) -> Graph:
        """The edited graph."""
        old, edits = self._old, self._old.edits
        storage = edits.storage if edits else None
        if not isinstance(storage, _Storage):
            storage = _Storage(Growing(old.item_ptr), Growing(old.edge_cluster), Growing(old.item_hashes))
        sizes = np.fromiter(map(len, self._rows), np.int64, len(self._rows))
        ends = old.n_edges + np.cumsum(sizes)
        new_cluster = np.concatenate([np.empty(0, np.int32), *self._rows]).astype(np.int32)
        ptr, item_ptr = storage.item_ptr.extended(len(old.item_ptr), ends)
        cluster, edge_cluster = storage.edge_cluster.extended(old.n_edges, new_cluster)
        hashes, item_hashes = storage.item_hashes.extended(old.n_items, hash_strings(self._ids))
        for array in (item_ptr, edge_cluster, item_hashes):
            array.setflags(write=False)
        live = np.concatenate(
            [edits.live if edits else np.ones(old.n_items, np.bool_), np.ones(len(sizes), np.bool_)]
        )
        live[self._dead] = False
        graph = replace(
            old,
            version=version,
            item_ids=[*old.item_ids, *self._ids],
            item_ptr=item_ptr,
            edge_cluster=edge_cluster,
            published_ms=self._times(),
            edits=Edits(
                base=self._base,
                numbers=self._numbers,
                kept=self._kept,
                live=live,
                attached=self._attached(sizes, new_cluster),
                storage=_Storage(ptr, cluster, hashes),
            ),
        )
        vars(graph)["item_hashes"] = item_hashes
        return graph

    def _number(self, item_id: str) -> int:
        """Number of a live item, or -1."""
        if item_id in self._numbers:
            return self._numbers[item_id]
        return self._base.index.get(item_id, -1)

    def _is(self, number: int, row: Int64, at_ms: int) -> bool:
        """Whether a live item is attached to these clusters, and published then, already."""
        old = self._old
        new = number - old.n_items
        if new >= 0:
            return np.array_equal(self._rows[new], row) and self._published[new] == at_ms
        has = old.edge_cluster[old.item_ptr[number] : old.item_ptr[number + 1]]
        return np.array_equal(has, row) and (0 if old.published_ms is None else old.published_ms[number]) == at_ms

    def _put(self, item_id: str, number: int, row: Int64, at_ms: int) -> None:
        if number >= 0:
            self._dead.append(number)
        self._kept.pop(item_id, None)
        self._numbers[item_id] = self._old.n_items + len(self._ids)
        self._ids.append(item_id)
        self._rows.append(row)
        self._published.append(at_ms)

    def _times(self) -> Int64 | None:
        old = self._old.published_ms
        if old is None and not any(self._published):
            return None
        before = np.zeros(self._old.n_items, np.int64) if old is None else old
        return np.concatenate([before, np.array(self._published, np.int64)])

    def _attached(self, sizes: Int64, new_cluster: Int32) -> dict[int, Int32]:
        attached = dict(self._old.edits.attached) if self._old.edits else {}
        item = np.repeat(np.arange(self._old.n_items, self._old.n_items + len(sizes), dtype=np.int32), sizes)
        order = np.argsort(new_cluster, kind="stable")
        clusters, starts = np.unique(new_cluster[order], return_index=True)
        for cluster, part in (
            zip(clusters.tolist(), np.split(item[order], starts[1:]), strict=True) if len(item) else ()
        ):
            before = attached.get(cluster)
            attached[cluster] = part if before is None else np.concatenate([before, part])
        return attached


def _checked_row(row: npt.ArrayLike, n_clusters: int) -> Int64:
    clusters = np.sort(np.asarray(row, np.int64).ravel())
    outside = clusters[(clusters < 0) | (clusters >= n_clusters)]
    if len(outside):
        raise ValueError(f"clusters: expected 0 <= number < {n_clusters}, got {outside[0]}")
    if (clusters[1:] == clusters[:-1]).any():
        raise ValueError("clusters: expected distinct numbers within an item, got one more than once")
    return clusters

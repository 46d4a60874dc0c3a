"""A graph with some items added, changed or taken out, without building it anew.

Invariants: clusters and the edges of all other items stay as they are, in the same order, so that nothing is sorted
but the new edges; the numbers of items may change, so sums are brought over by `bandits.sums.carry_over`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bandits.context import resolve_embeddings
from bandits.graph import Graph, Int32, Int64

Bool = npt.NDArray[np.bool_]


def with_items(graph: Graph, *, version: str, item_ids: Sequence[str], clusters: Sequence[npt.ArrayLike]) -> Graph:
    """The graph with items added, or attached to other clusters where it already has them.

    Args:
        graph: the graph to start from.
        version: name of the new version.
        item_ids: distinct external ids.
        clusters: for each of them, the clusters it is attached to, in any order.

    Raises:
        ValueError: a cluster is out of range or repeated within an item, or an id is repeated.
    """
    if len(set(item_ids)) != len(item_ids):
        raise ValueError(f"item_ids: expected distinct ids, got {len(item_ids) - len(set(item_ids))} repeated")
    rows = [_checked_row(row, graph.n_clusters) for row in clusters]
    known = graph.lookup(item_ids)
    ids = [*graph.item_ids, *(item_id for item_id, number in zip(item_ids, known, strict=True) if number < 0)]
    numbers = known.astype(np.int64)
    numbers[known < 0] = np.arange(graph.n_items, len(ids))

    kept = np.ones(graph.n_items, np.bool_)
    kept[known[known >= 0]] = False
    order = np.argsort(numbers)
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))[order]
    new_item = np.repeat(numbers[order], sizes)
    new_cluster = np.concatenate([np.empty(0, np.int64), *(rows[at] for at in order)])
    return _spliced(graph, kept, new_item, new_cluster, version=version, ids=ids)


def without_items(graph: Graph, item_ids: Collection[str], *, version: str) -> Graph:
    """The graph without some items; ids that it does not have are passed over.

    Args:
        graph: the graph to start from.
        item_ids: external ids.
        version: name of the new version.
    """
    gone = graph.lookup(list(item_ids))
    kept = np.ones(graph.n_items, np.bool_)
    kept[gone[gone >= 0]] = False
    nothing = np.empty(0, np.int64)
    emptied = _spliced(graph, kept, nothing, nothing, version=version, ids=list(graph.item_ids))
    new_number = (np.cumsum(kept) - 1).astype(np.int32)
    return replace(
        emptied,
        item_ids=[graph.item_ids[number] for number in np.flatnonzero(kept).tolist()],
        item_ptr=emptied.item_ptr[np.append(kept, True)],
        cluster_item=new_number[emptied.cluster_item],
    )


def nearest_clusters(graph: Graph, embeddings: npt.ArrayLike) -> Int32:
    """The clusters a new item is attached to: its nearest centroids by inner product, as many as items have here.

    A rebuild attaches an item where it is among a centroid's best; one new item alone cannot know that, so it gets
    the mean number of edges of an item, at least one.

    Args:
        graph: says the centroids.
        embeddings: of shape (n, dim), finite, no row all zero.

    Returns:
        int32 of shape (n, k), ascending in each row.

    Raises:
        InvalidContext: a row is not a finite direction of the centroids' dimension.
    """
    mean_degree = max(1, round(graph.n_edges / max(1, graph.n_items)))
    return resolve_embeddings(embeddings, graph.centroids, k=mean_degree, temperature=1.0)[0]


def _checked_row(row: npt.ArrayLike, n_clusters: int) -> Int64:
    clusters = np.sort(np.asarray(row, np.int64).ravel())
    outside = clusters[(clusters < 0) | (clusters >= n_clusters)]
    if len(outside):
        raise ValueError(f"clusters: expected 0 <= number < {n_clusters}, got {outside[0]}")
    if (clusters[1:] == clusters[:-1]).any():
        raise ValueError("clusters: expected distinct numbers within an item, got one more than once")
    return clusters


def _spliced(
    graph: Graph, kept: Bool, new_item: Int64, new_cluster: Int64, *, version: str, ids: list[str]
) -> Graph:
    """The graph with the edges of the items that are kept, and new edges of other items.

    Args:
        graph: the graph to start from.
        kept: of shape (n_items,), whose edges stay; the numbers of items do not change.
        new_item: item of each new edge, ascending.
        new_cluster: its cluster, ascending within an item.
        version: name of the new version.
        ids: all item ids, of which the first are those of the graph.
    """
    # Item-major: each row is either an old one or a new one, and rows follow each other by item number.
    sizes = np.zeros(len(ids), np.int64)
    sizes[: graph.n_items] = np.diff(graph.item_ptr) * kept
    sizes += np.bincount(new_item, minlength=len(ids))
    item_ptr = np.concatenate([[0], np.cumsum(sizes)])
    stays = np.repeat(kept, np.diff(graph.item_ptr))
    is_old = np.repeat(np.append(kept, np.zeros(len(ids) - graph.n_items, np.bool_)), sizes)
    edge_cluster = np.empty(item_ptr[-1], np.int32)
    edge_cluster[is_old] = graph.edge_cluster[stays]
    edge_cluster[~is_old] = new_cluster

    # Cluster-major: new edges go between the old ones of their cluster.
    renumbered = np.empty(graph.n_edges, np.int64)
    renumbered[stays] = np.flatnonzero(is_old)
    old_rank = np.flatnonzero(kept[graph.cluster_item])
    column = np.repeat(np.arange(graph.n_clusters), np.diff(graph.cluster_ptr))[old_rank]
    cluster_item = graph.cluster_item[old_rank]
    order = np.lexsort((new_item, new_cluster))
    width = max(1, len(ids))
    at = np.searchsorted(column * width + cluster_item, new_cluster[order] * width + new_item[order])
    degrees = np.bincount(column, minlength=graph.n_clusters)
    degrees += np.bincount(new_cluster, minlength=graph.n_clusters)
    return Graph(
        version=version,
        centroids=graph.centroids,
        item_ids=ids,
        item_ptr=item_ptr,
        edge_cluster=edge_cluster,
        cluster_ptr=np.concatenate([[0], np.cumsum(degrees)]),
        cluster_item=np.insert(cluster_item, at, new_item[order].astype(np.int32)),
        cluster_edge=np.insert(renumbered[graph.cluster_edge[old_rank]], at, np.flatnonzero(~is_old)[order]),
    )

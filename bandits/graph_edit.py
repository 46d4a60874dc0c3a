"""A graph with some items added, changed or taken out, without building it anew from embeddings.

Invariants: clusters and the edges of all other items stay as they are; the numbers of items may change, so sums are
brought over by `bandits.sums.carry_over`.
"""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from bandits.context import resolve_embeddings
from bandits.graph import Graph, Int32, build_graph


def with_items(graph: Graph, *, version: str, item_ids: Sequence[str], clusters: Sequence[npt.ArrayLike]) -> Graph:
    """The graph with items added, or attached to other clusters where it already has them.

    Args:
        graph: the graph to start from.
        version: name of the new version.
        item_ids: distinct external ids.
        clusters: for each of them, the clusters it is attached to.

    Raises:
        ValueError: a cluster is out of range or repeated within an item, or an id is repeated.
    """
    rows = [np.asarray(row, np.int64).ravel() for row in clusters]
    known = graph.lookup(item_ids)
    ids = [*graph.item_ids, *(item_id for item_id, number in zip(item_ids, known, strict=True) if number < 0)]
    numbers = known.astype(np.int64)
    numbers[known < 0] = np.arange(graph.n_items, len(ids))
    kept = np.ones(graph.n_items, np.bool_)
    kept[known[known >= 0]] = False
    edge_item, edge_cluster = _edges(graph, kept)
    return build_graph(
        version=version,
        centroids=graph.centroids,
        n_clusters=graph.n_clusters,
        item_ids=ids,
        edge_item=np.concatenate([edge_item, np.repeat(numbers, [len(row) for row in rows])]),
        edge_cluster=np.concatenate([edge_cluster, *rows]),
    )


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
    edge_item, edge_cluster = _edges(graph, kept)
    new_number = np.cumsum(kept) - 1
    return build_graph(
        version=version,
        centroids=graph.centroids,
        n_clusters=graph.n_clusters,
        item_ids=[graph.item_ids[number] for number in np.flatnonzero(kept).tolist()],
        edge_item=new_number[edge_item],
        edge_cluster=edge_cluster,
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


def _edges(graph: Graph, kept: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], Int32]:
    """Item and cluster of the edges of the items that are kept."""
    owner = np.repeat(np.arange(graph.n_items), np.diff(graph.item_ptr))
    chosen = kept[owner]
    return owner[chosen], graph.edge_cluster[chosen]

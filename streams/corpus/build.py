"""From user and item embeddings to a graph: cluster the users, join each cluster to its W nearest items.

Invariants: the same embeddings, ids, settings and seed give a graph with the same bytes and the same version; the
matrix of all clusters by all items never exists.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from bandits.graph import Float32, Graph, Int32, build_graph
from bandits.nearest import largest_products
from streams.corpus.clusters import ClusterSettings, cluster_users
from streams.corpus.errors import CorpusError

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Of a label and a total, something to enter that gives what to tell the progress."""


def silent(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A stage that shows nothing."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True, eq=False)
class CorpusGraph:
    """A graph and how near its edges are.

    Attributes:
        graph: the graph.
        best_rank: int32 of shape (n_items,), the best place of each item among a cluster's items, 0 = nearest;
            `top_w` where it is among no cluster's.
        top_w: W.
    """

    graph: Graph
    best_rank: Int32
    top_w: int


def build_corpus(
    *,
    users: Float32,
    items: Float32,
    item_ids: Sequence[str],
    clusters: ClusterSettings,
    top_w: int,
    least_clusters: int = 0,
    start: Float32 | None = None,
    version: str = "",
    stage: Stage = silent,
) -> CorpusGraph:
    """Build the graph of a corpus.

    Args:
        users: float32 of shape (n_users, dim), finite.
        items: float32 of shape (n_items, dim), finite.
        item_ids: distinct external ids of the items.
        clusters: how users are clustered.
        top_w: W, edges of each cluster, 1 or more; clipped to n_items.
        least_clusters: M; an item that fewer clusters chose is joined to its M nearest as well, so that with M > 0
            every item has a cluster.
        start: centroids that clustering begins with; None = distinct users, drawn.
        version: name of the graph; empty = named after its contents.
        stage: shows progress.

    Raises:
        CorpusError: shapes do not fit, or the users cannot be clustered.
        MissingLibrary: faiss is not installed.
    """
    if users.shape[1] != items.shape[1]:
        raise CorpusError(f"users, items: expected equal dimensions, got {users.shape[1]} and {items.shape[1]}")
    if len(item_ids) != len(items):
        raise CorpusError(f"item ids: expected {len(items)}, one per item embedding, got {len(item_ids)}")
    with stage("clustering users", clusters.iterations) as progress:
        centroids = cluster_users(users, clusters, start=start, progress=progress)
    with stage("joining items", len(centroids)) as progress:
        nearest, _ = largest_products(centroids, items, top_w, progress=progress)
    width = nearest.shape[1]
    edge_item = nearest.ravel()
    edge_cluster = np.repeat(np.arange(len(centroids), dtype=np.int32), width)
    if least_clusters:
        edges = _joined_to_nearest(edge_item, edge_cluster, items, centroids, least_clusters, stage)
        edge_item, edge_cluster = edges
    with stage("building the graph", 1) as progress:
        graph = build_graph(
            version=version or content_name(centroids, edge_item, edge_cluster, item_ids),
            centroids=centroids,
            item_ids=item_ids,
            edge_item=edge_item,
            edge_cluster=edge_cluster,
        )
        best_rank = np.full(len(items), width, np.int32)
        for rank in range(width - 1, -1, -1):
            best_rank[nearest[:, rank]] = rank
        progress(1)
    return CorpusGraph(graph, best_rank, width)


def _joined_to_nearest(
    edge_item: Int32, edge_cluster: Int32, items: Float32, centroids: Float32, least: int, stage: Stage
) -> tuple[Int32, Int32]:
    """The edges and, for every item with fewer than `least`, those to its `least` nearest clusters."""
    few = np.flatnonzero(np.bincount(edge_item, minlength=len(items)) < min(least, len(centroids)))
    with stage("joining the rest", len(few)) as progress:
        nearest, _ = largest_products(items[few], centroids, least, progress=progress)
    added = np.repeat(few, nearest.shape[1]) * len(centroids) + nearest.ravel()
    known = np.flatnonzero(np.isin(edge_item, few))
    fresh = np.setdiff1d(added, edge_item[known].astype(np.int64) * len(centroids) + edge_cluster[known])
    item, cluster = np.divmod(fresh, len(centroids))
    joined = (np.concatenate((edge_item, item)), np.concatenate((edge_cluster, cluster)))
    return joined[0].astype(np.int32), joined[1].astype(np.int32)


def content_name(centroids: Float32, edge_item: Int32, edge_cluster: Int32, item_ids: Sequence[str]) -> str:
    """A version name that differs wherever the graph differs, such as "corpus-0f343b0931126a20"."""
    digest = hashlib.sha256(repr((centroids.shape, edge_item.shape, len(item_ids))).encode())
    digest.update(np.ascontiguousarray(centroids, "<f4").data)
    for numbers in (edge_item, edge_cluster):
        digest.update(np.ascontiguousarray(numbers, "<i4").data)
    digest.update("\0".join(item_ids).encode("utf-8", "surrogatepass"))
    return f"corpus-{digest.hexdigest()[:16]}"

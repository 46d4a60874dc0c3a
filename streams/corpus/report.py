"""What a graph can and cannot recommend: degrees, coverage, and the items that no user reaches.

Invariant: an item counts as reached only if a user that was looked at has one of the item's clusters among the K of
its context; the report says how many users that were.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandits.graph import Float32, Int64
from bandits.nearest import largest_products
from streams.corpus.build import CorpusGraph
from streams.corpus.clusters import sample_users
from streams.logs.event_log import unit_rows

USERS_LOOKED_AT = 100_000
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """A distribution of counts: least, quantiles at 5, 25, 50, 75 and 95 %, most, and the mean."""

    least: int
    p05: int
    p25: int
    p50: int
    p75: int
    p95: int
    most: int
    mean: float


@dataclass(frozen=True)
class GraphReport:
    """What `freshet build-graph` says of a graph.

    Attributes:
        version: of the graph.
        n_clusters: clusters.
        n_items: items of the corpus.
        n_edges: edges.
        users_looked_at: users (a sample of all) whose contexts were resolved.
        clusters_per_user: K.
        clusters_of_item: edges of an item, over all items.
        items_of_cluster: edges of a cluster, over all clusters.
        users_of_cluster: users with the cluster among their K, over all clusters.
        clusters_without_users: clusters that no such user has.
        items_without_cluster: items no cluster has.
        items_unreached: items without a cluster or in clusters no such user has.
        coverage: share of the corpus that has a cluster.
        coverage_by_w: what the coverage would be with smaller W, ascending.
        unused_edges_share: share of the edges that are of clusters no such user has.
        top_percent_share: share of all edges that the 1 % best connected items hold.
    """

    version: str
    n_clusters: int
    n_items: int
    n_edges: int
    users_looked_at: int
    clusters_per_user: int
    clusters_of_item: Spread
    items_of_cluster: Spread
    users_of_cluster: Spread
    clusters_without_users: int
    items_without_cluster: int
    items_unreached: int
    coverage: float
    coverage_by_w: dict[int, float]
    unused_edges_share: float
    top_percent_share: float


@dataclass(frozen=True, eq=False)
class GraphCounts:
    """The counts behind a report.

    Attributes:
        item_degree: int64 of shape (n_items,).
        cluster_degree: int64 of shape (n_clusters,).
        cluster_users: int64 of shape (n_clusters,), users with the cluster among their K.
        unreached: int64, numbers of the items no such user reaches, ascending.
        n_users: users looked at.
        k: clusters of a user.
    """

    item_degree: Int64
    cluster_degree: Int64
    cluster_users: Int64
    unreached: Int64
    n_users: int
    k: int


def count_graph(
    corpus: CorpusGraph, users: Float32, *, k: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> GraphCounts:
    """Degrees of items and clusters, and what a sample of users reaches.

    Args:
        corpus: the graph.
        users: float32 of shape (n_users, dim), finite, no row all zero.
        k: clusters of a user's context; clipped to n_clusters.
        seed: of the sample.
        progress: told the users done so far.
    """
    graph = corpus.graph
    sample = unit_rows(sample_users(users, USERS_LOOKED_AT, np.random.default_rng(seed)))
    clusters, _ = largest_products(sample, graph.centroids, k, progress=progress)
    cluster_users = np.bincount(clusters.ravel(), minlength=graph.n_clusters)
    reached = np.zeros(graph.n_items, bool)
    item = np.repeat(np.arange(graph.n_items), np.diff(graph.item_ptr))
    reached[item[cluster_users[graph.edge_cluster] > 0]] = True
    return GraphCounts(
        item_degree=np.diff(graph.item_ptr),
        cluster_degree=np.diff(graph.cluster_ptr),
        cluster_users=cluster_users,
        unreached=np.flatnonzero(~reached),
        n_users=len(sample),
        k=clusters.shape[1],
    )


def report_graph(corpus: CorpusGraph, counts: GraphCounts) -> GraphReport:
    """The report of a graph."""
    graph, degree = corpus.graph, counts.item_degree
    edges = max(1, graph.n_edges)
    best = np.sort(degree)[::-1][: max(1, graph.n_items // 100)]
    return GraphReport(
        version=graph.version,
        n_clusters=graph.n_clusters,
        n_items=graph.n_items,
        n_edges=graph.n_edges,
        users_looked_at=counts.n_users,
        clusters_per_user=counts.k,
        clusters_of_item=spread(degree),
        items_of_cluster=spread(counts.cluster_degree),
        users_of_cluster=spread(counts.cluster_users),
        clusters_without_users=int((counts.cluster_users == 0).sum()),
        items_without_cluster=int((degree == 0).sum()),
        items_unreached=len(counts.unreached),
        coverage=float((degree > 0).mean()),
        coverage_by_w=coverage_by_w(corpus),
        unused_edges_share=float(counts.cluster_degree[counts.cluster_users == 0].sum() / edges),
        top_percent_share=float(best.sum() / edges),
    )


def coverage_by_w(corpus: CorpusGraph) -> dict[int, float]:
    """Share of the corpus with an edge, had W been W/32, W/16 ... W."""
    w = corpus.top_w
    widths = sorted({max(1, w >> shift) for shift in range(6)})
    return {width: float((corpus.best_rank < width).mean()) for width in widths}


def spread(counts: Int64) -> Spread:
    """The distribution of counts, of shape (n,), n >= 1."""
    quantiles = np.quantile(counts, _QUANTILES, method="inverted_cdf").astype(int).tolist()
    least, p05, p25, p50, p75, p95, most = quantiles
    return Spread(least, p05, p25, p50, p75, p95, most, mean=float(counts.mean()))

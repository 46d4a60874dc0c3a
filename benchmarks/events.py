"""Feedback for the benchmarks: slates of five items in contexts of ten clusters, a click on every second slate."""

import numpy as np

from bandits.graph import Graph, build_graph
from freshet.v1 import events_pb2

ITEMS_A_SLATE = 5
K = 10


def small_catalogue(items: int, clusters: int, dim: int, rng: np.random.Generator) -> Graph:
    """A whole graph, retrieval included: every item has an edge to 8 clusters."""
    chosen = np.argsort(rng.random((items, clusters)), axis=1)[:, :8]
    return build_graph(
        version="benchmark",
        centroids=rng.normal(size=(clusters, dim)),
        item_ids=[f"item-{number}" for number in range(items)],
        edge_item=np.repeat(np.arange(items), 8),
        edge_cluster=chosen.ravel(),
    )


def slates(
    graph: Graph, count: int, *, prefix: str, now_ms: int, rng: np.random.Generator
) -> list[events_pb2.Impression]:
    items = rng.integers(0, graph.n_items, (count, ITEMS_A_SLATE))
    items[:, 1:] = (items[:, :1] + np.arange(1, ITEMS_A_SLATE)) % graph.n_items  # distinct
    clusters = np.argsort(rng.random((count, graph.n_clusters)), axis=1)[:, :K]
    weights = np.full(K, 1 / K, np.float32).tolist()
    return [
        events_pb2.Impression(
            request_id=f"{prefix}-{number}",
            occurred_at_ms=now_ms,
            context=events_pb2.ClusterWeights(cluster_ids=clusters[number].tolist(), weights=weights),
            items=[
                events_pb2.ShownItem(item_id=graph.item_ids[item], position=position, propensity=1.0)
                for position, item in enumerate(items[number].tolist())
            ],
        )
        for number in range(count)
    ]


def clicks(impressions: list[events_pb2.Impression]) -> list[events_pb2.Click]:
    """One click on the top item of every second slate."""
    return [
        events_pb2.Click(
            request_id=slate.request_id, item_id=slate.items[0].item_id, occurred_at_ms=slate.occurred_at_ms
        )
        for slate in impressions[::2]
    ]

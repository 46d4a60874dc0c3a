"""A new item in replies, a retired one out of them: from the operator's call to the first reply that knows."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from bandits.artifact import save_graph
from bandits.graph import Graph, build_graph
from benchmarks.measure import Result
from freshet.v1 import events_pb2, operations_pb2, operations_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.demo.child import ServerProcess

TITLE = "Items live"
ABOUT = (
    "100,000 items x 32 edges, 2,000 clusters, dim 32, one server, one item a call. Time from sending UpsertItems "
    "to having a Recommend reply with the item in it, and from sending RetireItems to having one without it; the "
    "reply is asked for as soon as the call has returned, and again until it is right. Every change is durable "
    "before its call returns."
)
EDGES = 32
_DIM = 32
_LONGEST_S = 30.0


def run(quick: bool) -> list[Result]:
    return measured(*(1_000, 64, 4) if quick else (100_000, 2_000, 200))


def measured(items: int, clusters: int, times: int) -> list[Result]:
    """Results at one size.

    Args:
        items: items of the graph.
        clusters: clusters of the graph, at least `EDGES`.
        times: items that come and go.
    """
    rng = np.random.default_rng(8)
    graph = catalogue(items, clusters, rng)
    with _served(graph) as (recommender, operations):
        spent: dict[str, list[float]] = {
            "UpsertItems, cluster_ids": [],
            "UpsertItems, embedding": [],
            "RetireItems": [],
        }
        for number in range(times):
            name, cluster = f"new-{number}", int(rng.integers(clusters))
            item = events_pb2.Item(item_id=name, cluster_ids=events_pb2.ClusterIds(values=[cluster]))
            kind = "UpsertItems, cluster_ids"
            if number % 2:
                kind, vector = "UpsertItems, embedding", graph.centroids[cluster]
                item = events_pb2.Item(item_id=name, embedding=events_pb2.Embedding(values=vector.tolist()))
            offered = _offered(recommender, cluster)
            upsert = partial(operations.UpsertItems, operations_pb2.UpsertItemsRequest(items=[item]))
            retire = partial(operations.RetireItems, operations_pb2.RetireItemsRequest(item_ids=[name]))
            spent[kind].append(_until(upsert, offered, name, wanted=True))
            spent["RetireItems"].append(_until(retire, offered, name, wanted=False))
    return [
        Result.of(f"{what} -> replies, p{percent}", [float(np.percentile(seconds, percent)) * 1e3], "ms")
        for what, seconds in spent.items()
        for percent in (50, 99)
    ]


def catalogue(items: int, clusters: int, rng: np.random.Generator) -> Graph:
    """Every item has an edge to one cluster of each of `EDGES` equal parts."""
    part = clusters // EDGES
    chosen = rng.integers(0, part, (items, EDGES)) + np.arange(EDGES) * part
    return build_graph(
        version="benchmark",
        centroids=rng.normal(size=(clusters, _DIM)),
        item_ids=[f"item-{number}" for number in range(items)],
        edge_item=np.repeat(np.arange(items), EDGES),
        edge_cluster=chosen.ravel(),
    )


@contextmanager
def _served(
    graph: Graph,
) -> Iterator[tuple[recommender_pb2_grpc.RecommenderServiceStub, operations_pb2_grpc.OperationsServiceStub]]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # /tmp may be memory
        folder = Path(name)
        save_graph(graph, folder / "graph")
        options = ["--graph", str(folder / "graph"), "--log-level", "warning"]
        process = ServerProcess(folder / "data", log_file=folder / "log", arguments=options, environment={})
        try:
            with (
                grpc.insecure_channel(process.addresses["serving"]) as serving,
                grpc.insecure_channel(process.addresses["operations"]) as operating,
            ):
                yield (
                    recommender_pb2_grpc.RecommenderServiceStub(serving),
                    operations_pb2_grpc.OperationsServiceStub(operating),
                )
        finally:
            process.stop()


def _offered(recommender: recommender_pb2_grpc.RecommenderServiceStub, cluster: int) -> Callable[[], set[str]]:
    """Asks for everything around a cluster."""
    user = events_pb2.ClusterWeights(cluster_ids=[cluster], weights=[1.0])
    request = recommender_pb2.RecommendRequest(cluster_weights=user, slate_size=5_000)
    return lambda: {item.item_id for item in recommender.Recommend(request).items}


def _until(change: Callable[[], object], offered: Callable[[], set[str]], name: str, *, wanted: bool) -> float:
    """Seconds from the start of a change until replies have an item, or no longer have it."""
    began = time.perf_counter()
    change()
    while (name in offered()) != wanted:
        assert time.perf_counter() - began < _LONGEST_S
    return time.perf_counter() - began

"""A small graph, settings for a server on free ports, and a client for it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bandits.artifact import save_graph
from bandits.graph import Graph, build_graph
from freshet.v1 import feedback_pb2_grpc, operations_pb2_grpc, recommender_pb2_grpc
from server.app import App
from server.settings import Settings, load_settings
from tests.server.messages import DEADLINE_S

N_CLUSTERS, DIM, N_ITEMS = 8, 4, 40


def small_graph(version: str = "v1", *, n_items: int = N_ITEMS, first: int = 0) -> Graph:
    """Every item is an item of every second cluster or so; ids are item-<number>."""
    rng = np.random.default_rng(7)
    edge_item, edge_cluster = np.nonzero(rng.random((n_items, N_CLUSTERS)) < 0.5)
    # Cluster 0 holds every item, so that a one-hot context reaches all.
    others = edge_cluster != 0
    return build_graph(
        version=version,
        centroids=rng.normal(size=(N_CLUSTERS, DIM)),
        item_ids=[f"item-{first + j}" for j in range(n_items)],
        edge_item=np.concatenate([edge_item[others], np.arange(n_items)]),
        edge_cluster=np.concatenate([edge_cluster[others], np.zeros(n_items, np.int64)]),
    )


class Client:
    """The stubs of one server."""

    def __init__(self, app: App) -> None:
        self._channels = [
            grpc.insecure_channel(app.addresses.serving),
            grpc.insecure_channel(app.addresses.operations),
        ]
        self.recommender = recommender_pb2_grpc.RecommenderServiceStub(self._channels[0])
        self.feedback = feedback_pb2_grpc.FeedbackServiceStub(self._channels[0])
        self.operations = operations_pb2_grpc.OperationsServiceStub(self._channels[1])

    @property
    def serving(self) -> grpc.Channel:
        return self._channels[0]

    @property
    def operating(self) -> grpc.Channel:
        return self._channels[1]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def make_settings(folder: Path, **overrides: Any) -> Settings:
    """Settings of a server over an empty store and the small graph, all within a folder."""
    graph = folder / "graphs" / "v1"
    if not graph.exists():
        graph.parent.mkdir(exist_ok=True)
        save_graph(small_graph(), graph)
    given: dict[str, Any] = {
        "address": "127.0.0.1:0",
        "operations_address": "127.0.0.1:0",
        "http_address": "127.0.0.1:0",
        "data_dir": folder / "data",
        "graph": graph,
        "graph_dir": graph.parent,
        "backend": "numpy",
        "policy": {"mode": "ucb"},  # draws nothing, and its name says nothing of what was shown
        "log": {"level": "error"},
    }
    return load_settings(secrets_dir=folder / "no-secrets", **(given | overrides))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads will do."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)

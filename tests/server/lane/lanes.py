"""The two ways of a Score over one snapshot: the service, and the lane."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from bandits.backend_numba import NumbaBackend
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edges_of, edited
from bandits.policies import PolicySettings
from bandits.sums import UNIT
from freshet.v1 import events_pb2, recommender_pb2
from server.errors import Refused
from server.gate import Gate
from server.lane.score_lane import ScoreLane
from server.metrics import Metrics
from server.recommender import ContextRules, RecommenderService
from server.rules import NamedRules
from server.scoring import SlateRules
from server.snapshot import Snapshot
from streams.change import Change
from tests.server.serving import DIM, N_CLUSTERS, small_graph

N_ITEMS = 90
_BACKEND = NumbaBackend()


def learned(graph: Graph, rng: np.random.Generator, position: int) -> Change:
    """Sums with edges that were never shown."""
    items = np.arange(graph.n_items, dtype=np.int32)
    count = len(edges_of(graph, items))
    x = rng.integers(1, UNIT + 1, count)
    edge = np.stack([100 * x, 100 * x * x, rng.integers(0, 90, count) * x * UNIT], axis=1)
    edge[rng.random(count) < 0.1] = 0
    return Change(graph, items, edge, rng.integers(0, 99, (graph.n_items, 2)), position, True)


class Ways:
    """A snapshot of a graph that has been edited, and both ways over it."""

    def __init__(self, **rules: Any) -> None:
        rng = np.random.default_rng(1)
        self.graph = small_graph(n_items=N_ITEMS)
        self.snapshot = Snapshot(_BACKEND)
        self.snapshot.apply(learned(self.graph, rng, 300))
        slate = SlateRules(PolicySettings(), **({"top_m": 1, "explore_share": 0.0, "propensity_draws": 9} | rules))
        self.metrics, self.lane_metrics = Metrics(), Metrics()
        common: dict[str, Any] = {"snapshot": self.snapshot, "rules": SimpleNamespace(current=NamedRules.of(slate))}
        self.service = RecommenderService(
            **common,
            context_rules=ContextRules(k=3, temperature=0.5),
            default_mode="ucb",
            durable=None,  # type: ignore[arg-type]  # nothing is recorded here
            recording=Gate("recorded_score", places=1, retry_after_ms=1),
            metrics=self.metrics,
            clock_ms=lambda: 0,
            packed=lambda: None,  # type: ignore[arg-type, return-value]  # packed calls have ways of their own
        )
        self.lane = ScoreLane(**common, k=3, temperature=0.5, default_mode="ucb", metrics=self.lane_metrics)

    def edit(self) -> None:
        """New items, one that is attached elsewhere, one that is retired."""
        old, rng = self.graph, np.random.default_rng(2)
        self.graph = edited(
            old,
            GraphEdit("v1+1", ["new-é", "item-3", "item-4"], [[0, 1], [2], [0, 3]], retired=["item-5", "item-6"]),
        )
        items = np.arange(old.n_items, self.graph.n_items, dtype=np.int32)
        edge = rng.integers(1, UNIT, (len(edges_of(self.graph, items)), 3))
        item = rng.integers(0, 9, (len(items), 2))
        self.snapshot.apply(Change(self.graph, items, edge, item, 301, False, extends=old))

    def long(self, data: bytes) -> recommender_pb2.ScoreResponse | None:
        """What the service answers, None if it refuses."""
        try:
            return self.service._score(recommender_pb2.ScoreRequest.FromString(data))
        except (Refused, ValueError, RuntimeError):  # protobuf raises one of the latter two
            return None
        except Exception as error:
            if type(error).__name__ != "DecodeError":
                raise
            return None

    def short(self, data: bytes) -> recommender_pb2.ScoreResponse | None:
        """What the lane answers, None if it hands the request over."""
        answer = self.lane.score(data)
        return None if answer is None else recommender_pb2.ScoreResponse.FromString(answer)


def any_request(rng: np.random.Generator) -> recommender_pb2.ScoreRequest:
    """A request that is valid, with most of what a request can have; its seed and id are given."""
    ids = [f"item-{number}" for number in rng.choice(N_ITEMS, rng.integers(1, N_ITEMS), replace=False)]
    ids += rng.choice(["new-é", "nobody", "niemand-ü", "x" * 200], rng.integers(0, 4), replace=False).tolist()
    request = recommender_pb2.ScoreRequest(
        request_id=rng.choice(["r", "ü" * 50]),
        item_ids=ids,
        slate_size=int(rng.choice([0, 1, 5, 70, 5_000])),
        mode=int(rng.choice([0, 1, 2, 3, 5, 6])),  # type: ignore[arg-type]
        seed=[0, 1, 2**63, 2**64 - 1][rng.integers(0, 4)],
        surface=rng.choice(["", "home", "é"]),
        user_key=rng.choice(["", "me"]),
    )
    if rng.random() < 0.5:
        request.user_embedding.CopyFrom(events_pb2.Embedding(values=rng.normal(size=DIM)))
    else:
        clusters = rng.choice(N_CLUSTERS, rng.integers(1, N_CLUSTERS + 1), replace=False)
        weights = rng.random(len(clusters)) ** 9 + 1e-12
        request.cluster_weights.CopyFrom(
            events_pb2.ClusterWeights(cluster_ids=clusters.tolist(), weights=np.minimum(weights, 1).tolist())
        )
    if rng.random() < 0.4:
        request.exclude_item_ids.extend([*ids[: rng.integers(0, len(ids) + 1)], "item-1", "item-1", "stranger"])
    return request

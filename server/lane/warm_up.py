"""Compiles what answers calls, or reads it from the cache on disk, before the first caller comes.

Compiling takes tens of seconds of a processor, once for each machine and release; a call that waited for it would
outlast its deadline.
"""

import numpy as np

from bandits.backend import Backend
from bandits.context import Context
from bandits.graph import build_graph
from bandits.policies import PolicySettings
from bandits.shortlist_numba import compile_shortlist
from freshet.v1 import events_pb2, recommender_pb2
from server.compile_beside import CompilingBeside
from server.lane.lane_graph import LaneGraph
from server.lane.read_score import read_score
from server.lane.resolve_user import resolve_direction
from server.lane.score_lane import Room, ScoreLane
from server.metrics import Metrics
from server.packed.dictionary import Dictionary
from server.packed.packed_slates import PackedSlates
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.snapshot import Snapshot
from streams.change import Change


def compile_calls(backend: Backend, beside: CompilingBeside) -> None:
    """Answer one call of each kind over a graph of one item; only with the backend that compiles.

    Args:
        backend: of the sums.
        beside: compiles what fills slates, meanwhile.
    """
    graph = build_graph(version="warm-up", centroids=[[1.0]], item_ids=["item"], edge_item=[0], edge_cluster=[0])
    _compile_reading(LaneGraph(graph))
    beside.wait()
    snapshot = Snapshot(backend)
    first = np.zeros(1, np.int32)
    compile_shortlist()
    for full in (True, False):
        snapshot.apply(Change(graph, first, np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int64), 0, full))
    slate = SlateRules(PolicySettings(), top_m=1, explore_share=0.0, propensity_draws=1)
    rules = RulesInForce(slate, fit_prior=False, fit_pooled_mean=False)
    lane = ScoreLane(snapshot=snapshot, rules=rules, k=1, temperature=1.0, default_mode="ucb", metrics=Metrics())
    lane.score(_request())
    packed = PackedSlates(
        snapshot=snapshot, rules=rules, k=1, temperature=1.0, default_mode="ucb", metrics=Metrics()
    )
    one, weight = np.ones(1, np.int32).tobytes(), np.ones(1, np.float32).tobytes()
    queries = recommender_pb2.PackedQueries(
        dictionary=["item"], items=first.tobytes(), item_counts=one, embeddings=weight
    )
    packed.fill(queries, Dictionary())
    parameters = snapshot.current
    if parameters is not None:
        parameters.resolver(k=1, temperature=1.0)(np.ones(1, np.float32))
        for mode in slate.compiled:
            parameters.fill(first, Context(first, np.ones(1)), mode=mode, slate_size=1, seed=0, rules=slate)
            parameters.fill_around(Context(first, np.ones(1)), mode=mode, slate_size=1, seed=0, rules=slate)


def _request() -> bytes:
    user = events_pb2.ClusterWeights(cluster_ids=[0], weights=[1.0])
    return recommender_pb2.ScoreRequest(item_ids=["item"], cluster_weights=user).SerializeToString()


def _compile_reading(graph: LaneGraph) -> None:
    """Read a request, which needs nothing of what fills slates."""
    resolve_direction(graph, np.ones(1, np.float32), k=1, temperature=1.0)
    room, request = Room(), np.frombuffer(_request(), np.uint8)
    read_score(
        request,
        graph.index,
        graph.centroids,
        graph.largest,
        1,
        1.0,
        room.read,
        room.items,
        room.clusters,
        room.weights,
        room.unknown,
    )

"""Slates and contexts as messages. The only place with a loop over the items of a slate, one message each."""

import numpy as np

from bandits.context import Context
from bandits.graph import Graph, Int32
from freshet.v1 import events_pb2, recommender_pb2
from server.scoring import FilledSlate

AnyReply = recommender_pb2.ScoreResponse | recommender_pb2.RecommendResponse


def scored_items(graph: Graph, items: Int32, slate: FilledSlate) -> list[recommender_pb2.ScoredItem]:
    """A slate as messages, top first.

    Args:
        graph: says the ids.
        items: int32 of shape (n,), the candidates' numbers.
        slate: what was chosen of them.
    """
    kind = recommender_pb2.PROPENSITY_KIND_ESTIMATED if slate.estimated else recommender_pb2.PROPENSITY_KIND_EXACT
    ids = graph.item_ids
    message = recommender_pb2.ScoredItem
    columns = (slate.score, slate.mean, slate.width, slate.propensity, slate.explored)
    rows = zip(items[slate.chosen].tolist(), *(column.tolist() for column in columns), strict=True)
    return [
        message(
            item_id=ids[number],
            position=position,
            score=score,
            mean=mean,
            width=width,
            propensity=propensity,
            propensity_kind=kind,
            explored=explored,
        )
        for position, (number, score, mean, width, propensity, explored) in enumerate(rows)
    ]


def context_message(context: Context) -> events_pb2.ClusterWeights:
    """A resolved user, to be echoed; its weights survive float32 exactly."""
    return events_pb2.ClusterWeights(
        cluster_ids=context.cluster_ids.tolist(), weights=context.weights.astype(np.float32).tolist()
    )


def impression_of(reply: AnyReply, *, user_key: str, surface: str, occurred_at_ms: int) -> events_pb2.Impression:
    """The impression of a slate, as a caller who echoes the reply would send it."""
    shown = [
        events_pb2.ShownItem(item_id=item.item_id, position=item.position, propensity=item.propensity)
        for item in reply.items
    ]
    return events_pb2.Impression(
        request_id=reply.request_id,
        occurred_at_ms=occurred_at_ms,
        context=reply.context,
        items=shown,
        policy=reply.policy,
        mode=reply.mode,
        graph_version=reply.graph_version,
        user_key=user_key,
        surface=surface,
    )

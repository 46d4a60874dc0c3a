"""Short forms of messages, and what a refusal carries."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from freshet.v1 import events_pb2, feedback_pb2, recommender_pb2

DEADLINE_S = 20.0


def one_hot(cluster: int = 0) -> events_pb2.ClusterWeights:
    return events_pb2.ClusterWeights(cluster_ids=[cluster], weights=[1.0])


def score_request(*item_ids: str, **fields: Any) -> recommender_pb2.ScoreRequest:
    if not {"cluster_weights", "user_embedding"} & set(fields):
        fields["cluster_weights"] = one_hot()
    return recommender_pb2.ScoreRequest(item_ids=item_ids or ("item-0", "item-1", "item-2"), **fields)


def recommend_request(**fields: Any) -> recommender_pb2.RecommendRequest:
    if not {"cluster_weights", "user_embedding"} & set(fields):
        fields["cluster_weights"] = one_hot()
    return recommender_pb2.RecommendRequest(**({"slate_size": 5} | fields))


def impression(request_id: str, *item_ids: str, **fields: Any) -> events_pb2.Impression:
    shown = [events_pb2.ShownItem(item_id=item_id, position=at) for at, item_id in enumerate(item_ids)]
    return events_pb2.Impression(**({"request_id": request_id, "context": one_hot(), "items": shown} | fields))


def impressions(*elements: events_pb2.Impression) -> feedback_pb2.LogImpressionsRequest:
    return feedback_pb2.LogImpressionsRequest(impressions=elements)


def clicks(*elements: events_pb2.Click) -> feedback_pb2.LogClicksRequest:
    return feedback_pb2.LogClicksRequest(clicks=elements)


def click(request_id: str, item_id: str, **fields: Any) -> events_pb2.Click:
    return events_pb2.Click(request_id=request_id, item_id=item_id, **fields)


def refusal(
    call: Callable[..., Any], request: Any, *, timeout: float = DEADLINE_S
) -> tuple[grpc.StatusCode, Status]:
    """The status of a call that must fail, with its details."""
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=timeout)
    status = rpc_status.from_call(error.value)
    return error.value.code(), status if status is not None else Status()


def violations(status: Status) -> list[tuple[str, str]]:
    """Field and description of what a status says is wrong."""
    detail = BadRequest()
    assert [any_.Unpack(detail) for any_ in status.details] == [True]
    return [(violation.field, violation.description) for violation in detail.field_violations]


def retry_delay_ms(status: Status) -> int:
    """What a status tells the caller to wait."""
    detail = RetryInfo()
    assert [any_.Unpack(detail) for any_ in status.details] == [True]
    return int(detail.retry_delay.ToMilliseconds())

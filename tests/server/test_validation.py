"""What a caller sends is checked before anything is done with it, and what is wrong is named by its path."""

import math
from typing import Any

import grpc
import pytest

from freshet.v1 import events_pb2, operations_pb2, recommender_pb2
from tests.server.messages import (
    DEADLINE_S,
    one_hot,
    recommend_request,
    refusal,
    score_request,
    violations,
)
from tests.server.serving import Client

LONG = "x" * 257
WIDE = "é" * 129  # 129 characters, 258 bytes
SHORT_ENOUGH = "é" * 128

Explain = recommender_pb2.ExplainRequest
Weights = events_pb2.ClusterWeights


def weights(*values: float, ids: list[int] | None = None) -> dict[str, Any]:
    ids = list(range(len(values))) if ids is None else ids
    return {"cluster_weights": Weights(cluster_ids=ids, weights=values)}


def embedding(*values: float) -> dict[str, Any]:
    return {"user_embedding": events_pb2.Embedding(values=values)}


# What is wrong with the fields that Score and Recommend share: the fields, the path, the description.
COMMON: list[tuple[dict[str, Any], str, str]] = [
    ({"request_id": LONG}, "request_id", "expected 0 to 256 bytes, got 257 bytes"),
    ({"request_id": WIDE}, "request_id", "expected 0 to 256 bytes, got 258 bytes"),
    ({"surface": "s" * 65}, "surface", "expected 0 to 64 bytes, got 65 bytes"),
    ({"user_key": LONG}, "user_key", "expected 0 to 256 bytes, got 257 bytes"),
    ({"mode": 8}, "mode", "expected a Mode, 0 to 7, got 8"),
    ({"mode": -1}, "mode", "expected a Mode, 0 to 7, got -1"),
    ({"exclude_item_ids": ["x"] * 5_001}, "exclude_item_ids", "expected at most 5000 ids, got 5001 ids"),
    (weights(), "cluster_weights.cluster_ids", "expected 1 to 64 clusters, got 0"),
    (weights(*[0.1] * 65), "cluster_weights.cluster_ids", "expected 1 to 64 clusters, got 65"),
    (weights(0.5, 0.5, ids=[1, 1]), "cluster_weights.cluster_ids[1]", "expected distinct clusters, got 1 again"),
    (weights(0.5, ids=[8]), "cluster_weights.cluster_ids[0]", "expected an integer, 0 <= id < 8, got 8"),
    (weights(0.5, ids=[1, 2]), "cluster_weights.weights", "expected 2 numbers, one per cluster id, got 1"),
    (weights(0.5, math.nan), "cluster_weights.weights[1]", "expected a number, 0 < weight <= 1, got nan"),
    (weights(0.5, 1, math.inf), "cluster_weights.weights[2]", "expected a number, 0 < weight <= 1, got inf"),
    (weights(0.0), "cluster_weights.weights[0]", "expected a number, 0 < weight <= 1, got 0.0"),
    (weights(-0.5), "cluster_weights.weights[0]", "expected a number, 0 < weight <= 1, got -0.5"),
    (weights(1.5), "cluster_weights.weights[0]", "expected a number, 0 < weight <= 1, got 1.5"),
    (embedding(), "user_embedding.values", "expected 4 numbers (dimensions of the graph's centroids), got 0"),
    (
        embedding(1, 2, 3),
        "user_embedding.values",
        "expected 4 numbers (dimensions of the graph's centroids), got 3",
    ),
    (embedding(0, 0, 0, 0), "user_embedding.values", "expected not all zero, got zeros only"),
    (embedding(1, math.nan, 0, 0), "user_embedding.values[1]", "expected a finite float32, got nan"),
    (embedding(1, 0, -math.inf, 0), "user_embedding.values[2]", "expected a finite float32, got -inf"),
    (embedding(*[1.0] * 4_097), "user_embedding.values", "expected at most 4096 numbers, got 4097 numbers"),
]

# What is wrong with candidates: the ids, the path, the description.
CANDIDATES: list[tuple[list[str], str, str]] = [
    ([], "item_ids", "expected 1 to 5000 ids, got 0 ids"),
    (["a", ""], "item_ids[1]", "expected 1 to 256 bytes, got an empty string"),
    (["a", "b", LONG], "item_ids[2]", "expected 1 to 256 bytes, got 257 bytes"),
    ([WIDE], "item_ids[0]", "expected 1 to 256 bytes, got 258 bytes"),
    (["a", "b", "a"], "item_ids[2]", "expected distinct values, got a again"),
    ([str(i) for i in range(5_001)], "item_ids", "expected 1 to 5000 ids, got 5001 ids"),
]


def assert_refused(call: Any, request: Any, field: str, description: str) -> None:
    code, status = refusal(call, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(status) == [(field, description)]
    assert status.message == f"{field}: {description}"


@pytest.mark.parametrize(("fields", "field", "description"), COMMON)
def test_score_names_the_bad_field(untaught: Client, fields: dict[str, Any], field: str, description: str) -> None:
    """Score answers INVALID_ARGUMENT with the path, what was expected and what came."""
    assert_refused(untaught.recommender.Score, score_request(**fields), field, description)


@pytest.mark.parametrize(("fields", "field", "description"), COMMON)
def test_recommend_names_the_bad_field(
    untaught: Client, fields: dict[str, Any], field: str, description: str
) -> None:
    """Recommend answers as Score does."""
    assert_refused(untaught.recommender.Recommend, recommend_request(**fields), field, description)


@pytest.mark.parametrize(("item_ids", "field", "description"), CANDIDATES)
def test_score_names_the_bad_candidate(untaught: Client, item_ids: list[str], field: str, description: str) -> None:
    """Candidates are 1 to 5,000 distinct ids of 1 to 256 bytes."""
    request = recommender_pb2.ScoreRequest(cluster_weights=one_hot(), item_ids=item_ids)
    assert_refused(untaught.recommender.Score, request, field, description)


@pytest.mark.parametrize(
    ("request_", "field", "description"),
    [
        (score_request(slate_size=5_001), "slate_size", "expected 0 (all) to 5000, got 5001"),
        (score_request(slate_size=2**32 - 1), "slate_size", "expected 0 (all) to 5000, got 4294967295"),
        (
            recommender_pb2.ScoreRequest(item_ids=["a"]),
            "context",
            "expected user_embedding or cluster_weights, got neither",
        ),
    ],
)
def test_score_names_what_is_missing_or_too_large(
    untaught: Client, request_: recommender_pb2.ScoreRequest, field: str, description: str
) -> None:
    """A slate is bounded, and a user is required."""
    assert_refused(untaught.recommender.Score, request_, field, description)


@pytest.mark.parametrize("slate_size", [0, 5_001])
def test_recommend_needs_a_slate_size(untaught: Client, slate_size: int) -> None:
    """Recommend has no candidates whose number could stand in for the size of the slate."""
    request = recommend_request(slate_size=slate_size)
    assert_refused(untaught.recommender.Recommend, request, "slate_size", f"expected 1 to 5000, got {slate_size}")


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({"item_id": ""}, "item_id", "expected 1 to 256 bytes, got an empty string"),
        ({"item_id": LONG}, "item_id", "expected 1 to 256 bytes, got 257 bytes"),
        ({"mode": 99}, "mode", "expected a Mode, 0 to 7, got 99"),
        ({"cluster_weights": None}, "context", "expected user_embedding or cluster_weights, got neither"),
        (weights(math.nan), "cluster_weights.weights[0]", "expected a number, 0 < weight <= 1, got nan"),
    ],
)
def test_explain_names_the_bad_field(
    untaught: Client, fields: dict[str, Any], field: str, description: str
) -> None:
    """Explain is checked as Score is."""
    request = Explain(**({"item_id": "item-0", "cluster_weights": one_hot()} | fields))
    assert_refused(untaught.recommender.Explain, request, field, description)


def test_a_batch_is_bounded_as_a_whole(untaught: Client) -> None:
    """1 to 256 requests, of 100,000 candidates together."""
    batch = recommender_pb2.ScoreBatchRequest
    call = untaught.recommender.ScoreBatch
    assert_refused(call, batch(), "requests", "expected 1 to 256 requests, got 0 requests")
    many = batch(requests=[score_request("item-0")] * 257)
    assert_refused(call, many, "requests", "expected 1 to 256 requests, got 257 requests")
    wide = batch(requests=[score_request(*map(str, range(5_000)))] * 21)
    expected = "expected at most 100000 item_ids of all requests together, got 105000 item_ids"
    assert_refused(call, wide, "requests", expected)


def test_a_bad_element_of_a_batch_does_not_stop_the_others(untaught: Client) -> None:
    """Each element is answered as its unary call would be, with the path within the element."""
    requests = [score_request("item-0"), score_request("item-0", mode=9), score_request("item-1")]
    batch = recommender_pb2.ScoreBatchRequest(requests=requests)
    results = untaught.recommender.ScoreBatch(batch, timeout=DEADLINE_S).results
    assert [result.WhichOneof("result") for result in results] == ["response", "error", "response"]
    assert results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert violations(results[1].error) == [("mode", "expected a Mode, 0 to 7, got 9")]
    assert results[2].response.items[0].item_id == "item-1"


def test_the_longest_ids_are_taken(untaught: Client) -> None:
    """256 bytes is within the bound, in one-byte characters or in two-byte ones."""
    request = score_request("x" * 256, SHORT_ENOUGH, request_id=SHORT_ENOUGH, surface="s" * 64)
    reply = untaught.recommender.Score(request, timeout=DEADLINE_S)
    assert list(reply.unknown_item_ids) == ["x" * 256, SHORT_ENOUGH]
    assert reply.request_id == SHORT_ENOUGH


@pytest.mark.parametrize(
    ("call", "request_", "field", "description"),
    [
        ("GetItem", operations_pb2.GetItemRequest(), "item_id", "expected 1 to 256 bytes, got an empty string"),
        ("ListItems", operations_pb2.ListItemsRequest(limit=1_001), "limit", "expected 0 (= 20) to 1000, got 1001"),
        ("ListItems", operations_pb2.ListItemsRequest(order=4), "order", "expected an ItemOrder, 0 to 3, got 4"),
        ("LoadGraph", operations_pb2.LoadGraphRequest(), "path", "expected 1 to 4096 bytes, got an empty string"),
        ("UpsertItems", operations_pb2.UpsertItemsRequest(), "items", "expected 1 to 1000 items, got 0 items"),
        ("RetireItems", operations_pb2.RetireItemsRequest(), "item_ids", "expected 1 to 1000 ids, got 0 ids"),
        (
            "RetireItems",
            operations_pb2.RetireItemsRequest(item_ids=["a", "a"]),
            "item_ids[1]",
            "expected distinct values, got a again",
        ),
    ],
)
def test_operations_name_the_bad_field(
    untaught: Client, call: str, request_: Any, field: str, description: str
) -> None:
    """Operators are told what was wrong as callers are."""
    assert_refused(getattr(untaught.operations, call), request_, field, description)


def item(item_id: str = "new", **fields: Any) -> events_pb2.Item:
    return events_pb2.Item(item_id=item_id, **fields)


def clusters(*ids: int) -> events_pb2.ClusterIds:
    return events_pb2.ClusterIds(values=ids)


@pytest.mark.parametrize(
    ("items", "field", "description"),
    [
        ([item("")], "items[0].item_id", "expected 1 to 256 bytes, got an empty string"),
        ([item(LONG)], "items[0].item_id", "expected 1 to 256 bytes, got 257 bytes"),
        ([item(cluster_ids=clusters(1))] * 2, "items[1].item_id", "expected distinct values, got new again"),
        (
            [item()],
            "items[0].place",
            "expected embedding, cluster_ids or, with item_tower set, attributes, got neither",
        ),
        (
            [item(cluster_ids=clusters())],
            "items[0].cluster_ids.values",
            "expected 1 to 1024 clusters, got 0 clusters",
        ),
        ([item(cluster_ids=clusters(1, 8))], "items[0].cluster_ids.values[1]", "expected 0 <= id < 8, got 8"),
        (
            [item(cluster_ids=clusters(3, 3))],
            "items[0].cluster_ids.values[1]",
            "expected distinct values, got 3 again",
        ),
        (
            [item(embedding=events_pb2.Embedding(values=[1, 2]))],
            "items[0].embedding.values",
            "expected 4 numbers (dimensions of the graph's centroids), got 2",
        ),
        (
            [item(embedding=events_pb2.Embedding(values=[1, 2, math.inf, 4]))],
            "items[0].embedding.values[2]",
            "expected a finite float32, got inf",
        ),
    ],
)
def test_upsert_names_the_bad_item(untaught: Client, items: list[Any], field: str, description: str) -> None:
    """An item that cannot be attached changes nothing."""
    request = operations_pb2.UpsertItemsRequest(items=items)
    assert_refused(untaught.operations.UpsertItems, request, field, description)


def test_bytes_that_are_no_message_are_answered_by_grpc(untaught: Client) -> None:
    """Undecodable bytes become INTERNAL within gRPC, before any of our code runs; the server goes on."""
    raw = untaught.serving.unary_unary("/freshet.v1.RecommenderService/Score")
    with pytest.raises(grpc.RpcError) as error:
        raw(b"\xff\xff\xff", timeout=DEADLINE_S)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert untaught.recommender.Score(score_request(), timeout=DEADLINE_S).items


def test_a_message_beyond_the_bound_is_refused(untaught: Client) -> None:
    """More bytes than a request may have never reach a handler."""
    request = score_request("x" * (17 << 20))
    code, _ = refusal(untaught.recommender.Score, request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

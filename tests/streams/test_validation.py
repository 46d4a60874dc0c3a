"""Events from outside: the first wrong field, what was expected, what came; and what must pass."""

import math
from typing import Any

import pytest

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams import limits
from streams.validation import check_click, check_impression

NOW_MS = 1_700_000_000_000
RULE = JoinRule(max_delay_ms=1_000, max_skew_ms=100, kind_weights={"click": 1.0, "dwell": 0.1})
ID = "é" * 128  # 256 bytes


def impression(**changes: Any) -> events_pb2.Impression:
    weights = events_pb2.ClusterWeights(cluster_ids=[3, 1], weights=[0.5, 1.0])
    fields: dict[str, Any] = {"request_id": "r", "occurred_at_ms": NOW_MS, "context": weights}
    fields["items"] = [events_pb2.ShownItem(item_id="a"), events_pb2.ShownItem(item_id="b", position=1)]
    return events_pb2.Impression(**fields | changes)


def context(ids: list[int], weights: list[float]) -> dict[str, Any]:
    return {"context": events_pb2.ClusterWeights(cluster_ids=ids, weights=weights)}


def items(*shown: events_pb2.ShownItem) -> dict[str, Any]:
    return {"items": shown}


def item(item_id: str = "a", **fields: Any) -> events_pb2.ShownItem:
    return events_pb2.ShownItem(item_id=item_id, **fields)


TIMES = [
    (-1, "Unix milliseconds, 0 to 9007199254740992", "-1"),
    (-(2**63), "Unix milliseconds, 0 to 9007199254740992", str(-(2**63))),
    (2**53 + 1, "Unix milliseconds, 0 to 9007199254740992", str(2**53 + 1)),
    (NOW_MS - 1_001, "at most 1000 ms in the past", "1001 ms in the past"),
    (1, "at most 1000 ms in the past", f"{NOW_MS - 1} ms in the past"),
    (NOW_MS + 101, "at most 100 ms in the future", "101 ms in the future"),
]
LONG = "1 to 256 bytes"

BAD_IMPRESSIONS = [
    ({"request_id": ""}, "request_id", LONG, "0 bytes"),
    ({"request_id": "x" * 257}, "request_id", LONG, "257 bytes"),
    ({"request_id": "é" * 128 + "x"}, "request_id", LONG, "257 bytes"),
    *(({"occurred_at_ms": ms}, "occurred_at_ms", expected, got) for ms, expected, got in TIMES),
    (context([], []), "context.cluster_ids", "1 to 64 clusters", "0"),
    (context([*range(65)], [0.1] * 65), "context.cluster_ids", "1 to 64 clusters", "65"),
    (context([1, 2], [1.0]), "context.weights", "2 values, as in cluster_ids", "1"),
    (context([1], [1.0, 1.0]), "context.weights", "1 values, as in cluster_ids", "2"),
    (context([1, 2**31], [1.0, 1.0]), "context.cluster_ids[1]", "0 <= id <= 2147483647", "2147483648"),
    (context([1, 2], [1.0, 0.0]), "context.weights[1]", "0 < weight <= 1", "0.0"),
    (context([1], [-0.5]), "context.weights[0]", "0 < weight <= 1", "-0.5"),
    (context([1], [1.5]), "context.weights[0]", "0 < weight <= 1", "1.5"),
    (context([1], [math.nan]), "context.weights[0]", "0 < weight <= 1", "nan"),
    (context([1], [math.inf]), "context.weights[0]", "0 < weight <= 1", "inf"),
    (context([5, 1, 5], [1.0] * 3), "context.cluster_ids[2]", "distinct values", "5 again"),
    ({"items": []}, "items", "1 to 5000 items", "0"),
    ({"items": [item(str(n)) for n in range(5_001)]}, "items", "1 to 5000 items", "5001"),
    (items(item(), item("")), "items[1].item_id", LONG, "0 bytes"),
    (items(item("x" * 257)), "items[0].item_id", LONG, "257 bytes"),
    (items(item(position=5_000)), "items[0].position", "0 to 4999", "5000"),
    (items(item(propensity=-0.1)), "items[0].propensity", "0 (unknown) or 0 < p <= 1", "-0.1"),
    (items(item(propensity=1.1)), "items[0].propensity", "0 (unknown) or 0 < p <= 1", "1.1"),
    (items(item(propensity=math.nan)), "items[0].propensity", "0 (unknown) or 0 < p <= 1", "nan"),
    (items(item("a"), item("b"), item("a")), "items[2].item_id", "distinct values", "'a' again"),
    ({"policy": "x" * 257}, "policy", "at most 256 bytes", "257 bytes"),
    ({"graph_version": "é" * 129}, "graph_version", "at most 256 bytes", "258 bytes"),
    ({"user_key": "x" * 257}, "user_key", "at most 256 bytes", "257 bytes"),
    ({"surface": "é" * 32 + "x"}, "surface", "at most 64 bytes", "65 bytes"),
    ({"mode": 8}, "mode", "a Mode, 0 to 7", "8"),
    ({"mode": -1}, "mode", "a Mode, 0 to 7", "-1"),
]

BAD_CLICKS = [
    ({"request_id": ""}, "request_id", LONG, "0 bytes"),
    ({"request_id": "x" * 257}, "request_id", LONG, "257 bytes"),
    ({"item_id": ""}, "item_id", LONG, "0 bytes"),
    ({"item_id": "é" * 200}, "item_id", LONG, "400 bytes"),
    ({"reward": -1e-300}, "reward", "finite and >= 0", "-1e-300"),
    ({"reward": math.nan}, "reward", "finite and >= 0", "nan"),
    ({"reward": math.inf}, "reward", "finite and >= 0", "inf"),
    ({"kind": "buy"}, "kind", 'one of "click", "dwell"', '"buy"'),
    ({"kind": "k" * 100}, "kind", 'one of "click", "dwell"', f'"{"k" * 64}"'),
    *(({"occurred_at_ms": ms}, "occurred_at_ms", expected, got) for ms, expected, got in TIMES),
    ({"event_id": "x" * 257}, "event_id", "at most 256 bytes", "257 bytes"),
]


@pytest.mark.parametrize(("changes", "field", "expected", "got"), BAD_IMPRESSIONS)
def test_a_bad_impression_is_named_by_its_field(
    changes: dict[str, Any], field: str, expected: str, got: str
) -> None:
    """The path leads to the value, and what was expected and came is said."""
    wrong = check_impression(impression(**changes), RULE, NOW_MS)
    assert wrong is not None
    assert (wrong.field, wrong.expected, wrong.got) == (field, expected, got)
    assert str(wrong) == f"{field}: expected {expected}, got {got}"


@pytest.mark.parametrize(("changes", "field", "expected", "got"), BAD_CLICKS)
def test_a_bad_click_is_named_by_its_field(changes: dict[str, Any], field: str, expected: str, got: str) -> None:
    """As for impressions."""
    click = events_pb2.Click(**{"request_id": "r", "item_id": "i"} | changes)
    wrong = check_click(click, RULE, NOW_MS)
    assert wrong is not None
    assert (wrong.field, wrong.expected, wrong.got) == (field, expected, got)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"request_id": ID, "policy": ID, "graph_version": ID, "user_key": ID},
        {"request_id": "\x00", "mode": 6},
        *({"occurred_at_ms": ms} for ms in (0, NOW_MS - 1_000, NOW_MS, NOW_MS + 100)),
        context([2**31 - 1, 0], [1.0, 1e-45]),
        context([*range(limits.MAX_CLUSTERS_PER_CONTEXT)], [1.0] * limits.MAX_CLUSTERS_PER_CONTEXT),
        {"items": [item(str(n)) for n in range(limits.MAX_ITEMS_PER_SLATE)]},
        items(item(ID, position=4_999, propensity=1.0), item("x", position=4_999, propensity=5e-324)),
    ],
)
def test_an_impression_at_the_limits_passes(changes: dict[str, Any]) -> None:
    """Both ends of every range are inside."""
    assert check_impression(impression(**changes), RULE, NOW_MS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"request_id": ID, "item_id": ID, "event_id": ID},
        *({"reward": reward} for reward in (0.0, -0.0, 5e-324, 1.0, 1.7e308)),
        {"kind": "click"},
        {"kind": "dwell"},
        *({"occurred_at_ms": ms} for ms in (0, NOW_MS - 1_000, NOW_MS + 100)),
    ],
)
def test_a_click_at_the_limits_passes(changes: dict[str, Any]) -> None:
    """Both ends of every range are inside."""
    click = events_pb2.Click(**{"request_id": "r", "item_id": "i"} | changes)
    assert check_click(click, RULE, NOW_MS) is None


def test_the_limits_are_those_of_the_contract() -> None:
    """The .proto comments promise these numbers to producers."""
    assert (limits.MAX_ID_BYTES, limits.MAX_CLUSTERS_PER_CONTEXT, limits.MAX_ITEMS_PER_SLATE) == (256, 64, 5_000)
    assert limits.MAX_POSITION == 4_999

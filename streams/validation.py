"""Checks of events from outside: the first thing that is wrong, named by field path.

The same checks stand before the gRPC handlers (INVALID_ARGUMENT) and the Kafka consumers (dead letter).
"""

import math
from dataclasses import dataclass

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams import limits


@dataclass(frozen=True)
class Violation:
    """One wrong field.

    Attributes:
        field: path within the message, e.g. "items[3].item_id".
        expected: what would have been right.
        got: what came.
    """

    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got}"


def check_impression(message: events_pb2.Impression, rule: JoinRule, now_ms: int) -> Violation | None:
    """First violation of an impression, or None.

    Args:
        message: the impression.
        rule: says how old and how far ahead an event may be.
        now_ms: when the event came in, Unix milliseconds.
    """
    return (
        check_id("request_id", message.request_id)
        or check_time(message.occurred_at_ms, rule, now_ms)
        or _check_context(message)
        or _check_items(message)
        or _check_length("policy", message.policy, limits.MAX_ID_BYTES)
        or _check_length("graph_version", message.graph_version, limits.MAX_ID_BYTES)
        or _check_length("user_key", message.user_key, limits.MAX_ID_BYTES)
        or _check_length("surface", message.surface, limits.MAX_SURFACE_BYTES)
        or check_mode(message.mode)
    )


def check_click(message: events_pb2.Click, rule: JoinRule, now_ms: int) -> Violation | None:
    """First violation of a click, or None; arguments as in `check_impression`."""
    return (
        check_id("request_id", message.request_id)
        or check_id("item_id", message.item_id)
        or _check_reward(message)
        or _check_kind(message, rule)
        or check_time(message.occurred_at_ms, rule, now_ms)
        or _check_length("event_id", message.event_id, limits.MAX_ID_BYTES)
    )


def check_id(field: str, value: str) -> Violation | None:
    """An id has 1 to MAX_ID_BYTES bytes of UTF-8."""
    if value and len(value) * 4 <= limits.MAX_ID_BYTES:  # cannot be too long, whatever the characters
        return None
    size = len(value.encode())
    if 1 <= size <= limits.MAX_ID_BYTES:
        return None
    return Violation(field, f"1 to {limits.MAX_ID_BYTES} bytes", f"{size} bytes")


def check_time(occurred_at_ms: int, rule: JoinRule, now_ms: int) -> Violation | None:
    """An event is not too old and not in the future; 0 means that the producer did not say."""
    if occurred_at_ms == 0:
        return None
    field = "occurred_at_ms"
    if not 0 < occurred_at_ms <= limits.MAX_TIME_MS:
        return Violation(field, f"Unix milliseconds, 0 to {limits.MAX_TIME_MS}", str(occurred_at_ms))
    age_ms = now_ms - occurred_at_ms
    if age_ms > rule.max_delay_ms:
        return Violation(field, f"at most {rule.max_delay_ms} ms in the past", f"{age_ms} ms in the past")
    if -age_ms > rule.max_skew_ms:
        return Violation(field, f"at most {rule.max_skew_ms} ms in the future", f"{-age_ms} ms in the future")
    return None


def check_mode(mode: int) -> Violation | None:
    """A mode is one of the declared numbers."""
    if mode in events_pb2.Mode.values():
        return None
    return Violation("mode", f"a Mode, 0 to {max(events_pb2.Mode.values())}", str(mode))


def _check_context(message: events_pb2.Impression) -> Violation | None:
    ids, weights = message.context.cluster_ids, message.context.weights
    if not 1 <= len(ids) <= limits.MAX_CLUSTERS_PER_CONTEXT:
        return Violation("context.cluster_ids", f"1 to {limits.MAX_CLUSTERS_PER_CONTEXT} clusters", str(len(ids)))
    if len(weights) != len(ids):
        return Violation("context.weights", f"{len(ids)} values, as in cluster_ids", str(len(weights)))
    for i, (cluster, weight) in enumerate(zip(ids, weights, strict=True)):
        if cluster > limits.MAX_CLUSTER_ID:
            return Violation(f"context.cluster_ids[{i}]", f"0 <= id <= {limits.MAX_CLUSTER_ID}", str(cluster))
        if not 0 < weight <= 1:  # false for NaN too
            return Violation(f"context.weights[{i}]", "0 < weight <= 1", str(weight))
    return _check_distinct("context.cluster_ids", list(ids))


def _check_items(message: events_pb2.Impression) -> Violation | None:
    if not 1 <= len(message.items) <= limits.MAX_ITEMS_PER_SLATE:
        return Violation("items", f"1 to {limits.MAX_ITEMS_PER_SLATE} items", str(len(message.items)))
    for i, item in enumerate(message.items):
        wrong = check_id(f"items[{i}].item_id", item.item_id)
        if wrong:
            return wrong
        if item.position > limits.MAX_POSITION:
            return Violation(f"items[{i}].position", f"0 to {limits.MAX_POSITION}", str(item.position))
        if not 0 <= item.propensity <= 1:
            return Violation(f"items[{i}].propensity", "0 (unknown) or 0 < p <= 1", str(item.propensity))
    return _check_distinct("items", [item.item_id for item in message.items], ".item_id")


def _check_distinct(field: str, values: list[int] | list[str], suffix: str = "") -> Violation | None:
    if len(set(values)) == len(values):
        return None
    seen: set[object] = set()
    for i, value in enumerate(values):
        if value in seen:
            return Violation(f"{field}[{i}]{suffix}", "distinct values", f"{value!r} again")
        seen.add(value)
    return None


def _check_reward(message: events_pb2.Click) -> Violation | None:
    if message.HasField("reward") and not (math.isfinite(message.reward) and message.reward >= 0):
        return Violation("reward", "finite and >= 0", str(message.reward))
    return None


def _check_kind(message: events_pb2.Click, rule: JoinRule) -> Violation | None:
    if (message.kind or "click") in rule.kind_weights:
        return None
    declared = ", ".join(f'"{kind}"' for kind in sorted(rule.kind_weights))
    return Violation("kind", f"one of {declared}", f'"{message.kind[:64]}"')


def _check_length(field: str, value: str, max_bytes: int) -> Violation | None:
    if len(value) * 4 <= max_bytes or len(value.encode()) <= max_bytes:
        return None
    return Violation(field, f"at most {max_bytes} bytes", f"{len(value.encode())} bytes")

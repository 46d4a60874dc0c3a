"""Events as protobuf messages to columns.

Invariants: messages have passed `streams.validation`; the columns keep the order of the records; weights are
rounded to fixed point here and nowhere else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from bandits.context import fixed_point_weights
from bandits.events import Clicks, Impressions, Int32, Int64
from bandits.hashing import hash_strings
from bandits.join_rule import JoinRule, kind_numbers
from bandits.sums import UNIT, Float64
from freshet.v1 import events_pb2

Message = TypeVar("Message", events_pb2.Impression, events_pb2.Click)


@dataclass(frozen=True)
class Record(Generic[Message]):
    """A record of a source log: many events that were accepted together.

    Attributes:
        offset: its place in the log.
        ingested_at_ms: when the log took it, Unix milliseconds.
        events: the events in it.
        indices: number of each event within the record; None means 0, 1, 2, ...
    """

    offset: int
    ingested_at_ms: int
    events: Sequence[Message]
    indices: Sequence[int] | None = None


def impression_columns(records: Iterable[Record[events_pb2.Impression]], rule: JoinRule) -> Impressions:
    """Columns of all slates of some records; the rule says which surfaces are passed over."""
    records = list(records)
    slates = [slate for record in records for slate in record.events]
    if not slates:
        return Impressions.none()
    sizes = [len(slate.context.cluster_ids) for slate in slates]
    context_of = np.repeat(np.arange(len(slates)), sizes)
    cluster = np.array([c for slate in slates for c in slate.context.cluster_ids], np.int32)
    x = fixed_point_weights(np.array([w for slate in slates for w in slate.context.weights], np.float64))
    order = np.lexsort((cluster, context_of))  # clusters ascend within each context
    return Impressions(
        request_ids=[slate.request_id for slate in slates],
        occurred_at_ms=np.array([slate.occurred_at_ms for slate in slates], np.int64),
        ingested_at_ms=_per_event(records, [record.ingested_at_ms for record in records]),
        offset=_per_event(records, [record.offset for record in records]),
        index=_indices(records).astype(np.int32),
        item_ends=np.cumsum([len(slate.items) for slate in slates]),
        item_ids=[item.item_id for slate in slates for item in slate.items],
        context_ends=np.cumsum(sizes),
        context_cluster=cluster[order],
        context_x=x[order],
        position=np.array([item.position for slate in slates for item in slate.items], np.int32),
        passed=np.array([slate.surface not in rule.surfaces for slate in slates]) if rule.surfaces else None,
    )


def click_columns(records: Iterable[Record[events_pb2.Click]], rule: JoinRule) -> Clicks:
    """Columns of all clicks of some records, rewards weighted and capped by the rule."""
    records = list(records)
    clicks = [click for record in records for click in record.events]
    if not clicks:
        return Clicks.none()
    places = {kind: place for place, kind in enumerate(rule.kind_weights)}
    return priced_clicks(
        rule,
        request_ids=[click.request_id for click in clicks],
        item_ids=[click.item_id for click in clicks],
        kind=np.array([places[click.kind or "click"] for click in clicks], np.int64),
        raw=np.array([click.reward if click.HasField("reward") else 1.0 for click in clicks]),
        event_ids=[click.event_id for click in clicks],
        occurred_at_ms=np.array([click.occurred_at_ms for click in clicks], np.int64),
        ingested_at_ms=_per_event(records, [record.ingested_at_ms for record in records]),
        offset=_per_event(records, [record.offset for record in records]),
        index=_indices(records).astype(np.int32),
    )


def priced_clicks(
    rule: JoinRule,
    *,
    request_ids: Sequence[str],
    item_ids: Sequence[str],
    kind: Int64,
    raw: Float64,
    event_ids: Sequence[str],
    occurred_at_ms: Int64,
    ingested_at_ms: Int64,
    offset: Int64,
    index: Int32,
) -> Clicks:
    """Columns of clicks, their rewards weighted and capped by the rule.

    Args:
        rule: says what a kind is worth.
        request_ids: of each click.
        item_ids: of each click.
        kind: int64 of shape (n_clicks,), place of the kind of each click among those that the rule declares.
        raw: float64 of shape (n_clicks,), finite and >= 0: the rewards as they came.
        event_ids: of each click, empty where there is none; looked at only if several clicks count.
        occurred_at_ms: as in `Clicks`.
        ingested_at_ms: as in `Clicks`.
        offset: as in `Clicks`.
        index: as in `Clicks`.
    """
    declared = list(rule.kind_weights)
    weight = np.array([rule.kind_weights[name] for name in declared])[kind]
    cap = np.array([rule.cap_of(name) for name in declared])[kind] if rule.kind_caps else rule.reward_cap
    reward = np.minimum(np.minimum(raw, cap / np.maximum(weight, 1e-300)) * weight, cap)
    several = rule.several_count
    kinds = [declared[number] for number in kind.tolist()] if several else []
    return Clicks(
        request_ids=request_ids,
        item_ids=item_ids,
        reward=np.rint(reward * UNIT).astype(np.int64),
        occurred_at_ms=occurred_at_ms,
        ingested_at_ms=ingested_at_ms,
        offset=offset,
        index=index,
        kind=kind_numbers(kinds) if several else None,
        identity=_identities(event_ids, occurred_at_ms, kinds, raw) if several else None,
    )


def _identities(event_ids: Sequence[str], occurred_at_ms: Int64, kinds: Sequence[str], raw: Float64) -> Int64:
    """Equal for the same reaction sent again: by its event_id, or by its time and reward where it has none.

    The time is the producer's own: that of ingestion differs between the first sending and the next.
    """
    columns = zip(event_ids, occurred_at_ms.tolist(), kinds, raw.tolist(), strict=True)
    names = [
        f"{kind}\0e{event_id}" if event_id else f"{kind}\0t{time_ms}\0{reward!r}"
        for event_id, time_ms, kind, reward in columns
    ]
    return hash_strings(names)[:, 0].view(np.int64)


def _per_event(records: Sequence[Record[Message]], values: list[int]) -> Int64:
    return np.repeat(np.array(values, np.int64), [len(record.events) for record in records])


def _indices(records: Sequence[Record[Message]]) -> Int64:
    given = [record.indices if record.indices is not None else range(len(record.events)) for record in records]
    return np.concatenate([np.asarray(indices, np.int64) for indices in given])

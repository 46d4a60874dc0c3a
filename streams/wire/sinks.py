"""What the compiled scans write: columns of events, room for all that some bytes can hold.

Invariants: what a scan leaves has passed the rules of `streams.validation`; the first `ended[...]` entries of each
column are filled, the rest is undefined.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams import limits

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

TRY_PROTOBUF, TRY_JSON, DONE, HAND_OVER = range(4)  # what becomes of a record
UNNAMED = -1  # of the column SURFACE; else the number of a word, 0 for one that is none
FORBIDDEN = -2  # of `Words`: a key that leaves the record to the slow way
SLATE_COLUMNS, CLICK_COLUMNS = 8, 10
# Columns of `ShownSink.slate`
REQUEST_AT, REQUEST_SIZE, OCCURRED, RECORD, INDEX, ITEMS_END, CONTEXT_END, SURFACE = range(SLATE_COLUMNS)
# Columns of `ClickedSink.click`; the first ones as above
ITEM_AT, ITEM_SIZE, KIND, EVENT_AT, EVENT_SIZE = range(5, CLICK_COLUMNS)
SLATES, ROWS, ELEMENTS, DISTINCT = range(4)  # of `ShownSink.ended`
# Columns of `ShownSink.known`, half a line of the cache: place, size, hash (of no meaning outside), and the slate,
# among all that were tried, that showed it last
KNOWN_AT, KNOWN_SIZE, KNOWN_HASH, SHOWN_IN = range(4)
KNOWN_COLUMNS = 4

# The smallest item has 5 bytes, as has the smallest element of a context, in either encoding.
FEWEST_BYTES = 5


class Bounds(NamedTuple):
    """Limits of `streams.limits` and of the join rule, as numbers that compiled code can take."""

    id_bytes: int
    surface_bytes: int
    items: int
    clusters: int
    cluster_id: int
    position: int
    events: int
    time_ms: int
    skew_ms: int
    mode: int


def bounds_of(rule: JoinRule) -> Bounds:
    """The limits in force."""
    return Bounds(
        id_bytes=limits.MAX_ID_BYTES,
        surface_bytes=limits.MAX_SURFACE_BYTES,
        items=limits.MAX_ITEMS_PER_SLATE,
        clusters=limits.MAX_CLUSTERS_PER_CONTEXT,
        cluster_id=limits.MAX_CLUSTER_ID,
        position=limits.MAX_POSITION,
        events=limits.MAX_EVENTS_PER_RECORD,
        time_ms=limits.MAX_TIME_MS,
        skew_ms=rule.max_skew_ms,
        mode=max(events_pb2.Mode.values()),
    )


class ShownSink(NamedTuple):
    """Impressions.

    Attributes:
        ended: int64 of shape (4,), how many slates, rows, elements of contexts and distinct item ids.
        slate: int64 of shape (n, 8), the columns named above; places are those in the buffer.
        item: int32, number of each row's item among the distinct ones.
        position: int32, of each row.
        cluster: int32, of each element, ascending and distinct within a context.
        x: int64, of each element, unit 2^-15.
        known: int64 of shape (n, 4), the columns of a distinct item id named above.
    """

    ended: Int64
    slate: Int64
    item: Int32
    position: Int32
    cluster: Int32
    x: Int64
    known: Int64


def shown_sink(n_bytes: int) -> ShownSink:
    """Room for what so many bytes can hold."""
    most = n_bytes // FEWEST_BYTES + 1
    return ShownSink(
        ended=np.zeros(4, np.int64),
        slate=np.empty((most, SLATE_COLUMNS), np.int64),
        item=np.empty(most, np.int32),
        position=np.empty(most, np.int32),
        cluster=np.empty(most + limits.MAX_CLUSTERS_PER_CONTEXT, np.int32),
        x=np.empty(most + limits.MAX_CLUSTERS_PER_CONTEXT, np.int64),
        known=np.empty((most, KNOWN_COLUMNS), np.int64),
    )


class ClickedSink(NamedTuple):
    """Clicks.

    Attributes:
        ended: int64 of shape (1,), how many.
        click: int64 of shape (n, 10), the columns named above.
        reward: float64, 1 where the click names none.
    """

    ended: Int64
    click: Int64
    reward: Float64


def clicked_sink(n_bytes: int) -> ClickedSink:
    """Room for what so many bytes can hold."""
    most = n_bytes // FEWEST_BYTES + 1
    return ClickedSink(np.zeros(1, np.int64), np.empty((most, CLICK_COLUMNS), np.int64), np.empty(most))


class Words(NamedTuple):
    """Strings that are told apart.

    Attributes:
        text: uint8, one after the other.
        ends: int64, where each ends.
        numbers: int64, what each stands for; at least 1, or negative.
    """

    text: UInt8
    ends: Int64
    numbers: Int64


def words_of(numbers: Mapping[str, int]) -> Words:
    """Words of a dictionary."""
    encoded = [word.encode() for word in numbers]
    text = np.frombuffer(bytearray(b"".join(encoded) + b"\0"), np.uint8)
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    return Words(text, ends, np.array(list(numbers.values()), np.int64))


class Vocabulary(NamedTuple):
    """Keys of JSON objects as numbers of the fields that they name, in both spellings, and names of values.

    Attributes:
        batch: the key that makes an object a batch.
        event: of an event. What only a batch has is FORBIDDEN.
        context: of a context.
        item: of a shown item.
        mode: names of modes as their numbers + 1.
        kind: declared kinds of reactions, or surfaces that are learned from, as their places + 1.
    """

    batch: Words
    event: Words
    context: Words
    item: Words
    mode: Words
    kind: Words


def vocabulary_of(event: Any, batch_field: str, kinds: list[str]) -> Vocabulary:
    """The words of a topic's events.

    Args:
        event: the message of one event.
        batch_field: the field of its batch.
        kinds: declared kinds of reactions, or surfaces that are learned from.
    """
    return Vocabulary(
        batch=words_of({batch_field: 1}),
        event=words_of({batch_field: FORBIDDEN} | _keys(event)),
        context=words_of(_keys(events_pb2.ClusterWeights)),
        item=words_of(_keys(events_pb2.ShownItem)),
        mode=words_of({name: number + 1 for name, number in events_pb2.Mode.items()}),
        kind=words_of({name: place + 1 for place, name in enumerate(kinds)}),
    )


def _keys(message: Any) -> dict[str, int]:
    fields = message.DESCRIPTOR.fields
    return {spelling: field.number for field in fields for spelling in (field.name, field.json_name)}

"""Source records to events: protobuf or JSON, one event or many, whatever a producer sends.

How a record is read:
1. A header `content-type` that contains "json" or "protobuf" says the encoding. Without it, a record whose first
   byte is `{` or `[` is JSON: in protobuf these bytes would open a group, which no message here has.
2. JSON: an array is a batch; so is an object with the key "impressions" or "clicks". Anything else is one event.
   Field names are those of the schema or their camelCase; numbers may be strings; unknown fields are ignored.
3. Protobuf: a record whose top-level fields all have number 1 is a batch, any other one event. A valid Impression
   has its context (3) and items (4) and a valid Click its item_id (2), while the batches have field 1 alone and
   will never get another. So neither can be taken for the other, whatever bytes its ids hold.

There are two ways to the same columns. `decode` goes by way of messages and `streams.validation`: it is the
definition, and what gives reasons. `columns` takes the records in one compiled pass (`streams.wire`) and leaves to
`decode` those in which that finds anything wrong or unusual.

Invariant: every record, or every event of a batch, is either handed on or refused with a reason; none is dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.event_codec import Message, Record, click_columns, impression_columns
from streams.kafka.chunk import LogRecord
from streams.limits import MAX_EVENTS_PER_RECORD
from streams.validation import Violation, check_click, check_impression
from streams.wire.pieces import Columns, part_of, together
from streams.wire.readers import ClickReader, ImpressionReader, Reader
from streams.wire.sinks import HAND_OVER, TRY_JSON, TRY_PROTOBUF

_NO_AGE_LIMIT_MS = 2**62
_LAST_GROUP_BYTE = 0x7F


@dataclass(frozen=True)
class Refused:
    """What is sent to the dead letters.

    Attributes:
        record: the source record.
        index: number of the event within the record; None = the record as a whole.
        value: the bytes: of the event alone, or of the record.
        reason: field, what was expected, what came.
    """

    record: LogRecord
    index: int | None
    value: bytes | None
    reason: str


@dataclass
class Decoded(Generic[Message]):
    """What some records hold.

    Attributes:
        records: those with at least one good event.
        refused: the rest.
        clock_ms: latest ingestion time.
    """

    clock_ms: int
    records: list[Record[Message]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


@dataclass
class DecodedColumns(Generic[Columns]):
    """What some records hold, as columns.

    Attributes:
        clock_ms: latest ingestion time.
        events: the good events.
        refused: the rest.
    """

    clock_ms: int
    events: Columns
    refused: list[Refused]


class SourceDecoder(Generic[Message, Columns]):
    """Reads the records of one source topic.

    Args:
        single: the event's message.
        batch: the batch's message.
        batch_field: its field, also the key that makes a JSON object a batch.
        check: finds what is wrong with an event.
        to_columns: makes columns of messages.
        reader: makes columns of bytes.
        rule: the join rule.
    """

    def __init__(
        self,
        single: type[Message],
        batch: type[Any],
        batch_field: str,
        check: Callable[[Message, JoinRule, int], Violation | None],
        to_columns: Callable[[Sequence[Record[Message]]], Columns],
        reader: Reader[Columns],
        rule: JoinRule,
    ) -> None:
        self._single: Any = single
        self._batch = batch
        self._batch_field = batch_field
        self._check: Callable[[Any, JoinRule, int], Violation | None] = check
        self._to_columns: Callable[[Any], Columns] = to_columns
        self._reader: Reader[Any] = reader
        # An event that is too old is no mistake of its producer: the joiner counts it as late.
        self._rule = replace(rule, max_delay_ms=_NO_AGE_LIMIT_MS)

    def decode(self, records: Sequence[LogRecord], *, clock_ms: int) -> Decoded[Message]:
        """Events of some records.

        Args:
            records: in the order of their log.
            clock_ms: latest ingestion time before them. Ingestion time never runs backwards, even if the
                broker's clock did.
        """
        decoded: Decoded[Message] = Decoded(clock_ms)
        for record in records:
            decoded.clock_ms = max(decoded.clock_ms, record.timestamp)
            try:
                events = self._events(record)
            except (ValueError, TypeError, RecursionError) as error:
                decoded.refused.append(Refused(record, None, record.value, str(error)))
                continue
            self._sort(record, events, decoded)
        return decoded

    def columns(self, records: Sequence[LogRecord], *, clock_ms: int) -> DecodedColumns[Columns]:
        """The same as `decode` and then columns of it, in a twentieth of the time; arguments as there."""
        if not records:
            return DecodedColumns(clock_ms, self._to_columns([]), [])
        values = [record.value or b"" for record in records]
        stamps = np.array([clock_ms, *(record.timestamp for record in records)], np.int64)
        now_ms = np.maximum.accumulate(stamps)[1:]
        offset = np.array([record.offset for record in records], np.int64)
        outcome = np.array([_how(record) for record in records], np.uint8)
        events, record_of = self._reader.read(values, offset, now_ms, outcome)
        last_ms = int(now_ms[-1])
        if not (outcome == HAND_OVER).any():
            return DecodedColumns(last_ms, events, [])
        parts, refused, start = [], [], 0
        for first, end in _runs(outcome == HAND_OVER):
            stop = int(np.searchsorted(record_of, first))
            parts.append(part_of(events, start, stop))
            start = stop
            decoded = self.decode(records[first:end], clock_ms=int(now_ms[first]))
            parts.append(self._to_columns(decoded.records))
            refused += decoded.refused
        parts.append(part_of(events, start, len(events)))
        return DecodedColumns(last_ms, together(parts), refused)

    def _sort(self, record: LogRecord, events: Sequence[Message], decoded: Decoded[Message]) -> None:
        """Keep the good events of a record, refuse the others one by one."""
        good: list[int] = []
        for index, event in enumerate(events):
            wrong = self._check(event, self._rule, decoded.clock_ms)
            if wrong is None:
                good.append(index)
            elif len(events) == 1:
                decoded.refused.append(Refused(record, None, record.value, str(wrong)))
            else:
                decoded.refused.append(Refused(record, index, event.SerializeToString(), str(wrong)))
        if good:
            all_good = len(good) == len(events)
            decoded.records.append(
                Record(
                    record.offset,
                    decoded.clock_ms,
                    events if all_good else [events[i] for i in good],
                    None if all_good else good,
                )
            )

    def _events(self, record: LogRecord) -> Sequence[Message]:
        value = record.value
        if not value:
            raise ValueError(f"record: expected {self._name} as protobuf or JSON, got {_kind(value)}")
        events = self._from_json(value) if _is_json(record, value) else self._from_protobuf(value)
        if not 1 <= len(events) <= MAX_EVENTS_PER_RECORD:
            raise ValueError(
                f"{self._batch_field}: expected 1 to {MAX_EVENTS_PER_RECORD} events, got {len(events)}"
            )
        return events

    def _from_protobuf(self, value: bytes) -> Sequence[Message]:
        try:
            if is_batch(value):
                events: Sequence[Message] = getattr(self._batch.FromString(value), self._batch_field)
                return events
            return [self._single.FromString(value)]
        except DecodeError as error:
            raise ValueError(
                f"record: expected {self._name}, got {len(value)} bytes that are none: {error}"
            ) from None

    def _from_json(self, value: bytes) -> Sequence[Message]:
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"record: expected JSON, got {error}") from None
        if isinstance(parsed, dict) and self._batch_field in parsed:
            parsed = parsed[self._batch_field]
            if not isinstance(parsed, list):
                raise ValueError(f"{self._batch_field}: expected an array, got {type(parsed).__name__}")
        events = parsed if isinstance(parsed, list) else [parsed]
        if len(events) > MAX_EVENTS_PER_RECORD:
            raise ValueError(f"{self._batch_field}: expected at most {MAX_EVENTS_PER_RECORD}, got {len(events)}")
        try:
            return [json_format.ParseDict(event, self._single(), ignore_unknown_fields=True) for event in events]
        except (json_format.ParseError, AttributeError) as error:
            raise ValueError(f"record: expected {self._name} as JSON, got: {error}") from None

    @property
    def _name(self) -> str:
        return f"{self._single.DESCRIPTOR.name} or {self._batch.DESCRIPTOR.name}"


ImpressionDecoder: TypeAlias = SourceDecoder[events_pb2.Impression, Impressions]
ClickDecoder: TypeAlias = SourceDecoder[events_pb2.Click, Clicks]


def impression_decoder(rule: JoinRule) -> ImpressionDecoder:
    """Reads freshet.impressions.v1."""
    return SourceDecoder(
        events_pb2.Impression,
        events_pb2.ImpressionBatch,
        "impressions",
        check_impression,
        lambda records: impression_columns(records, rule),
        ImpressionReader(rule),
        rule,
    )


def click_decoder(rule: JoinRule) -> ClickDecoder:
    """Reads freshet.clicks.v1."""
    return SourceDecoder(
        events_pb2.Click,
        events_pb2.ClickBatch,
        "clicks",
        check_click,
        lambda records: click_columns(records, rule),
        ClickReader(rule),
        rule,
    )


def is_batch(value: bytes) -> bool:
    """True if every top-level field of a protobuf message has number 1 and a length.

    Raises:
        ValueError: a field of number 1 goes beyond the end.
    """
    at, end = 0, len(value)
    while at < end:
        if value[at] != 0x0A:
            return False
        at, size = _varint(value, at + 1)
        at += size
    if at != end:
        raise ValueError(f"record: expected {at} bytes, got {end}: it was cut")
    return True


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """Where the number ends, and the number."""
    number = 0
    for place, byte in enumerate(value[at : at + 5]):
        number |= (byte & 0x7F) << (7 * place)
        if byte <= _LAST_GROUP_BYTE:
            return at + place + 1, number
    raise ValueError("record: expected a length of at most 5 bytes, got more: it was cut or is no protobuf")


def _is_json(record: LogRecord, value: bytes) -> bool:
    for name, header in record.headers:
        if name.lower() == "content-type" and header:
            if b"json" in header.lower():
                return True
            if b"protobuf" in header.lower():
                return False
    return value[:1] in (b"{", b"[")


def _how(record: LogRecord) -> int:
    """As what the compiled pass is to try a record."""
    if not record.value:
        return HAND_OVER
    return TRY_JSON if _is_json(record, record.value) else TRY_PROTOBUF


def _runs(chosen: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of every run of what is chosen."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    return [(first, end) for first, end in edges.reshape(-1, 2).tolist()]


def _kind(value: bytes | None) -> str:
    return "null" if value is None else "no bytes"

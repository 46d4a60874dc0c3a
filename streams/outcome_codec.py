"""The ledger's record format: `freshet.v1.OutcomeBatch` to and from columns, whole columns at a time.

Many records are read as one run, without a pass over each: at low rates a record holds a few facts, and a call on
an array of a few costs as much as on one of thousands.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.join_rule import MAX_HALF_LIFE_MS, MIN_HALF_LIFE_MS
from bandits.ledger_run import LedgerRun
from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC, Outcomes
from bandits.sums import UNIT
from freshet.v1 import outcomes_pb2
from streams.limits import MAX_TIME_MS

FORMAT = 1
_OPENINGS = 3  # 0, 1, and -1 as 2

# Column of Outcomes: name on the wire, its dtype there and in memory.
_U32, _U64 = "<u4", "<u8"
FACT_COLUMNS: dict[str, tuple[str, str, type[np.integer[Any]]]] = {
    "item": ("item", _U32, np.int32),
    "context": ("context", _U32, np.int32),
    "impressions": ("impressions", _U32, np.int64),
    "reward": ("reward", _U32, np.int64),
    "cause_topic": ("cause_topic", _U32, np.int32),
    "cause_offset": ("cause_offset", _U64, np.int64),
    "cause_index": ("cause_index", _U32, np.int32),
}
CONTEXT_COLUMNS: dict[str, tuple[str, str, type[np.integer[Any]]]] = {
    "context_ends": ("context_ends", _U32, np.int64),
    "context_cluster": ("context_clusters", _U32, np.int32),
    "context_x": ("context_x", _U32, np.int64),
}
COLUMNS = FACT_COLUMNS | CONTEXT_COLUMNS
# Columns of facts that most ledgers do without, and the value that their absence stands for.
OPTIONAL_COLUMNS: dict[str, tuple[str, int]] = {
    "opening": (_U32, 0),
    "gamma": (_U32, UNIT),
    "shown_ms": (_U64, 0),
}

Message = outcomes_pb2.OutcomeColumns
Column = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


class LedgerError(ValueError):
    """A ledger record that cannot be read."""


def encode_outcomes(outcomes: Outcomes) -> bytes:
    """Bytes of an OutcomeBatch."""
    columns: dict[str, Any] = {
        wire: getattr(outcomes, name).astype(kind).tobytes() for name, (wire, kind, _) in COLUMNS.items()
    }
    (more,) = encode_optional(outcomes, slice(None), [0, len(outcomes)])
    body = Message(item_ids=outcomes.item_ids, **columns).SerializeToString()
    return encode_head(outcomes) + body + more


def encode_head(outcomes: Outcomes) -> bytes:
    """What is said of a batch as a whole, to be put before its columns."""
    return Message(
        format=FORMAT,
        joiner_partition=outcomes.joiner_partition,
        sequence=outcomes.sequence,
        impressions_position=outcomes.impressions_position,
        clicks_position=outcomes.clicks_position,
        half_life_ms=outcomes.half_life_ms,
        clock_ms=outcomes.clock_ms,
        clock_start_ms=outcomes.clock_start_ms,
    ).SerializeToString()


def encode_optional(outcomes: Outcomes, order: Int64 | slice, ends: Sequence[int]) -> list[bytes]:
    """Columns that most ledgers do without, to be put behind the others; one piece for each stretch of facts.

    Args:
        outcomes: of one batch.
        order: of its facts, by number.
        ends: where each stretch begins in that order, and their end.
    """
    given: dict[str, npt.NDArray[Any]] = {}
    for name, (kind, _) in OPTIONAL_COLUMNS.items():
        column = getattr(outcomes, name)
        if column is not None:
            given[name] = (column % _OPENINGS if name == "opening" else column)[order].astype(kind)
    if not given:
        return [b""] * (len(ends) - 1)
    pieces: list[dict[str, Any]] = [
        {name: column[first:end].tobytes() for name, column in given.items()} for first, end in pairwise(ends)
    ]
    return [Message(**piece).SerializeToString() for piece in pieces]


def parse_record(record: bytes) -> Message:
    """A record as a message, its columns not looked at.

    Raises:
        LedgerError: the bytes are no OutcomeBatch of this format.
    """
    try:
        message = Message.FromString(record)
    except Exception as error:  # protobuf has its own ways to dislike bytes
        raise LedgerError(f"record: expected an OutcomeBatch, got {len(record)} bytes that are none") from error
    if message.format != FORMAT:
        raise LedgerError(f"format: expected {FORMAT}, got {message.format}")
    return message


def decode_outcomes(record: bytes) -> Outcomes:
    """Columns of an OutcomeBatch.

    Raises:
        LedgerError: the bytes are not one, its columns do not fit together, or a number is out of its range.
    """
    message = parse_record(record)
    columns = _columns([message])
    del columns["record"], columns["half_life_ms"]
    return Outcomes(
        joiner_partition=message.joiner_partition,
        sequence=message.sequence,
        impressions_position=message.impressions_position,
        clicks_position=message.clicks_position,
        item_ids=list(message.item_ids),
        half_life_ms=message.half_life_ms,
        clock_ms=message.clock_ms,
        clock_start_ms=message.clock_start_ms,
        **columns,
    )


def decode_run(messages: Sequence[Message]) -> LedgerRun:
    """Columns of several records, one after the other.

    Raises:
        LedgerError: one of them is damaged; `decode_run` of each alone tells which.
    """
    columns = _columns(messages)
    for name in ("cause_topic", "cause_offset", "cause_index"):
        del columns[name]
    return LedgerRun(item_ids=[name for message in messages for name in message.item_ids], **columns)


def _columns(messages: Sequence[Message]) -> dict[str, Any]:
    """All columns, numbers of items and contexts counted through all records; and the record of each fact."""
    columns: dict[str, Any] = {}
    sizes: dict[str, Int64] = {}
    for name, (wire, kind, dtype) in COLUMNS.items():
        parts = [getattr(message, wire) for message in messages]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        if (lengths % int(kind[-1])).any():
            raise LedgerError(f"{wire}: expected entries of {kind[-1]} bytes")
        sizes[name] = lengths // int(kind[-1])
        columns[name] = np.frombuffer(b"".join(parts), kind).astype(dtype)
    items = np.fromiter((len(message.item_ids) for message in messages), np.int64, len(messages))
    _check_lengths(sizes)
    record = np.repeat(np.arange(len(messages), dtype=np.int32), sizes["item"])
    _check_numbers(columns, sizes, items, record)
    _check_values(columns)
    if len(messages) > 1:
        _shift(columns["item"], items, record)
        _shift(columns["context"], sizes["context_ends"], record)
    return columns | {"record": record} | _optional_columns(messages, sizes["item"])


def _optional_columns(messages: Sequence[Message], facts: Int64) -> dict[str, Any]:
    """Columns that a record may lack; None where all of them do."""
    columns: dict[str, Any] = {}
    for name, (kind, absent) in OPTIONAL_COLUMNS.items():
        parts: list[bytes] = [getattr(message, name) for message in messages]
        columns[name] = None
        if not any(parts):
            continue
        filled = []
        for part, count in zip(parts, facts.tolist(), strict=True):
            if part and len(part) != count * int(kind[-1]):
                raise LedgerError(f"{name}: expected none or {count} entries as in item, got {len(part)} bytes")
            filled.append(np.frombuffer(part, kind) if part else np.full(count, absent, kind))
        columns[name] = np.concatenate(filled).astype(np.int64)
    half_lives = np.array([message.half_life_ms for message in messages], np.int64)
    has_times = np.array([bool(message.shown_ms) for message in messages])
    if ((half_lives != 0) != has_times)[facts > 0].any():
        raise LedgerError("shown_ms: expected the time of each fact exactly where half_life_ms is set")
    columns["half_life_ms"] = None if columns["shown_ms"] is None else np.repeat(half_lives, facts)
    _check_optional(columns)
    return columns


def _check_optional(columns: dict[str, Any]) -> None:
    ranges = {"opening": (0, _OPENINGS - 1), "gamma": (1, UNIT), "shown_ms": (0, MAX_TIME_MS)}
    for name, (low, high) in ranges.items():
        column = columns[name]
        if column is not None and len(column) and (column.min() < low or column.max() > high):
            raise LedgerError(f"{name}: expected {low} to {high}, got {column.min()} to {column.max()}")
    opening, half_life = columns["opening"], columns["half_life_ms"]
    if opening is not None:
        columns["opening"] = np.where(opening == _OPENINGS - 1, -1, opening)
    if half_life is not None:
        wrong = (half_life != 0) & ((half_life < MIN_HALF_LIFE_MS) | (half_life > MAX_HALF_LIFE_MS))
        if wrong.any():
            got = half_life[np.argmax(wrong)]
            raise LedgerError(f"half_life_ms: expected {MIN_HALF_LIFE_MS} to {MAX_HALF_LIFE_MS}, got {got}")


def _check_lengths(sizes: dict[str, Int64]) -> None:
    facts = sizes["item"]
    for name in FACT_COLUMNS:
        if (sizes[name] != facts).any():
            at = int(np.argmax(sizes[name] != facts))
            raise LedgerError(f"{name}: expected {facts[at]} entries as in item, got {sizes[name][at]}")
    if (sizes["context_x"] != sizes["context_cluster"]).any():
        raise LedgerError("context_ends: expected ascending ends of parallel columns")


def _check_numbers(
    columns: dict[str, Any], sizes: dict[str, Int64], items: Int64, record: npt.NDArray[np.int32]
) -> None:
    """Numbers within their own record; makes the ends of contexts count through all records."""
    contexts, elements = sizes["context_ends"], sizes["context_cluster"]
    for name, counts in (("item", items), ("context", contexts)):
        wrong = (columns[name] < 0) | (columns[name] >= counts[record])
        if wrong.any():
            raise LedgerError(f"{name}: expected numbers below {counts[record[np.argmax(wrong)]]}")
    ends, owner = columns["context_ends"], np.repeat(np.arange(len(contexts)), contexts)
    before = np.zeros(len(ends), np.int64)
    before[1:] = ends[:-1]
    first = np.cumsum(contexts) - contexts
    before[first[contexts > 0]] = 0
    if (ends < before).any():
        raise LedgerError("context_ends: expected ascending ends of parallel columns")
    last = np.zeros(len(contexts), np.int64)
    last[contexts > 0] = ends[(first + contexts - 1)[contexts > 0]]
    if (last != elements).any():
        raise LedgerError(f"context_ends: expected the last to be {elements[np.argmax(last != elements)]}")
    if len(contexts) > 1:
        _shift(ends, elements, owner)


def _shift(numbers: Column, counts: Int64, record: Column) -> None:
    """Let numbers that count within their record count through all records."""
    numbers += (np.cumsum(counts) - counts)[record].astype(numbers.dtype)


def _check_values(columns: dict[str, Any]) -> None:
    """Sums are exact only for numbers within these ranges."""
    ranges: dict[str, tuple[int, int]] = {
        "context_x": (1, UNIT),
        "context_cluster": (0, np.iinfo(np.int32).max),
        "impressions": (0, 1),
        "cause_topic": (IMPRESSIONS_TOPIC, CLICKS_TOPIC),
        "cause_offset": (0, np.iinfo(np.int64).max),
    }
    for name, (low, high) in ranges.items():
        column = columns[name]
        if len(column) and (column.min() < low or column.max() > high):
            raise LedgerError(f"{COLUMNS[name][0]}: expected {low} to {high}, got {column.min()} to {column.max()}")
    cluster = columns["context_cluster"]
    first = np.zeros(len(cluster) + 1, np.bool_)
    first[columns["context_ends"]] = True  # where a context may begin below the end of the one before
    if (np.diff(cluster) <= 0)[~first[1:-1]].any():
        raise LedgerError("context_clusters: expected to ascend within a context")

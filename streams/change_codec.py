"""Changes of the joiner to and from bytes, whole columns at a time.

Layout 1 is written, layout 0 is read too. Where a partition takes much at once, the disk is paid by the byte: the
largest columns are written as their smallest value and what is above it, in as few bytes as that takes.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.joiner_change import JoinerChange, Tally
from bandits.texts import Pairs, Texts
from freshet.v1 import state_pb2

Int64 = npt.NDArray[np.int64]

_INT64 = (
    "row_occurred_ms",
    "row_ingested_ms",
    "row_context",
    "context_ends",
    "context_x",
    "rewarded",
    "click_occurred_ms",
    "click_ingested_ms",
    "click_reward",
    "click_offset",
    "resolved",
)
# Columns that may be empty as a whole.
_OPTIONAL = (
    "click_kind",
    "click_identity",
    "reward_row",
    "reward_kind",
    "reward_identity",
    "reward_value",
    "reward_total",
    "row_offset",
)
_OPTIONAL_INT32 = ("row_gamma", "row_index")
_INT32 = ("context_cluster", "click_index")
_OPTIONAL_FLAGS = ("row_passed",)
_DTYPES = ((_INT64, "<i8"), (_OPTIONAL, "<i8"), (_INT32, "<i4"), (_OPTIONAL_INT32, "<i4"))
_NUMBERS = (
    "sequence",
    "clock_ms",
    "impressions_position",
    "clicks_position",
    "row_start",
    "context_start",
    "click_start",
    "first_row",
    "first_click",
    "needs_row",
    "needs_click",
    "keep_from",
    "closed_before",
)
_NARROW = {"row_occurred_ms", "row_ingested_ms", "row_context", "context_ends", "context_cluster", "context_x"}
_NARROW_HEAD = struct.Struct("<qIB")  # smallest value, how many, bytes of each
_MOST_ENTRIES = 1 << 24  # a damaged count must not fill the memory
_FORMAT = 1
_TOP_BITS, _CONTINUED = np.uint8(0xC0), np.uint8(0x80)  # of UTF-8


def encode_change(change: JoinerChange) -> bytes:
    """Bytes of a change, without its dead letters, which are stored on their own."""
    message = state_pb2.JoinerChangeColumns(format=_FORMAT, tally=change.tally.as_dict())
    for name in _NUMBERS:
        setattr(message, name, getattr(change, name))
    for names, dtype in _DTYPES:
        for name in names:
            column: npt.NDArray[np.integer] = getattr(change, name)
            if len(column):
                setattr(message, name, _narrow(column) if name in _NARROW else column.astype(dtype).tobytes())
    _put_ids(message, change)
    for name in _OPTIONAL_FLAGS:
        flags: npt.NDArray[np.bool_] = getattr(change, name)
        setattr(message, name, flags.tobytes())
    return message.SerializeToString()


def decode_change(record: bytes) -> JoinerChange:
    """A change from its bytes.

    Raises:
        ValueError: the bytes are none, or its columns do not fit together.
    """
    try:
        change = _decode(record)
    except Exception as error:  # protobuf and numpy each have their own ways to dislike bytes
        raise ValueError(f"change: expected a JoinerChange, got {len(record)} bytes that are none") from error
    rows, clicks = len(change.row_keys), len(change.click_keys)
    for name in (*_INT64, *_INT32):
        length = rows if name.startswith("row_") else clicks if name.startswith("click_") else None
        if length is not None and len(getattr(change, name)) != length:
            raise ValueError(f"{name}: expected {length} entries, got {len(getattr(change, name))}")
    rewards = len(change.reward_row)
    for name in (*_OPTIONAL, *_OPTIONAL_INT32, *_OPTIONAL_FLAGS):
        lengths = (0, clicks) if name.startswith("click_") else (0, rows) if name.startswith("row_") else (rewards,)
        if len(getattr(change, name)) not in lengths:
            raise ValueError(f"{name}: expected {lengths[-1]} entries, got {len(getattr(change, name))}")
    ends, elements = change.context_ends, len(change.context_cluster)
    if len(change.context_x) != elements or (int(ends[-1]) if len(ends) else 0) != elements:
        raise ValueError(f"context_ends: expected the last to be {elements}, the length of parallel columns")
    if (ends < 0).any() or (ends[1:] < ends[:-1]).any():
        raise ValueError("context_ends: expected to ascend from 0")
    return change


def _decode(record: bytes) -> JoinerChange:
    message = state_pb2.JoinerChangeColumns.FromString(record)
    columns: dict[str, Any] = {}
    for names, dtype in _DTYPES:
        for name in names:
            data = getattr(message, name)
            narrow = name in _NARROW and message.format == _FORMAT
            columns[name] = _wide(data).astype(dtype) if narrow else np.frombuffer(data, dtype)
    for name in _OPTIONAL_FLAGS:
        columns[name] = np.frombuffer(getattr(message, name), np.uint8) != 0
    rows, clicks = _ids(message)
    numbers: dict[str, Any] = {name: int(getattr(message, name)) for name in _NUMBERS}
    return JoinerChange(
        tally=Tally(**dict(message.tally)),
        row_keys=rows,
        click_keys=clicks,
        dead=[],
        **numbers,
        **columns,
    )


def _put_ids(message: Any, change: JoinerChange) -> None:
    requests = change.row_keys.request
    starts = np.ones(len(requests), np.bool_)
    starts[1:] = (requests.at[1:] != requests.at[:-1]) | (requests.size[1:] != requests.size[:-1])
    if len(requests):
        message.row_request_rows = _narrow(np.diff(np.flatnonzero(starts), append=len(requests)))
    clicks = change.click_keys
    for name, size, texts in (
        ("row_requests", "row_request_sizes", requests.take(starts)),
        ("row_items", "row_item_sizes", change.row_keys.item),
        ("click_requests", "click_request_sizes", clicks.request),
        ("click_items", "click_item_sizes", clicks.item),
    ):
        if len(texts):
            setattr(message, name, texts.to_bytes().tobytes())
            setattr(message, size, _narrow(texts.size))


def _ids(message: Any) -> tuple[Pairs, Pairs]:
    """Ids of rows and of clicks."""
    if message.format == _FORMAT:
        requests, items = (
            _texts(message.row_requests, message.row_request_sizes),
            _texts(message.row_items, message.row_item_sizes),
        )
        times = _wide(message.row_request_rows)
        if (times < 0).any() or int(times.sum()) != len(items):
            raise ValueError(f"row_request_rows: expected {len(items)} rows, got {times.sum()}")
        rows = Pairs(requests.take(np.repeat(np.arange(len(requests)), times)), items)
        clicks = Pairs(
            _texts(message.click_requests, message.click_request_sizes),
            _texts(message.click_items, message.click_item_sizes),
        )
    else:
        rows = Pairs(Texts.of(message.row_request_ids), Texts.of(message.row_item_ids))
        clicks = Pairs(Texts.of(message.click_request_ids), Texts.of(message.click_item_ids))
    if any(len(pairs.request) != len(pairs.item) for pairs in (rows, clicks)):
        raise ValueError("ids: expected as many requests as items")
    return rows, clicks


def _texts(data: bytes, sizes: bytes) -> Texts:
    size = _wide(sizes)
    if (size < 0).any() or int(size.sum()) != len(data):
        raise ValueError(f"ids: expected {len(data)} bytes, got sizes of {size.sum()}")
    data.decode()
    texts = Texts.packed(np.frombuffer(bytearray(data), np.uint8), size)
    if (texts.data[texts.at[size > 0]] & _TOP_BITS == _CONTINUED).any():
        raise ValueError("ids: expected whole characters")
    return texts


def _narrow(column: npt.NDArray[np.integer]) -> bytes:
    """A column that is not empty, in as few bytes an entry as hold what is above its smallest."""
    low = int(column.min())
    span = int(column.max()) - low
    width = next(width for width in (0, 1, 2, 4, 8) if span < 1 << 8 * width)
    data = (column.astype(np.int64) - low).astype(f"<u{width}").tobytes() if width else b""
    return _NARROW_HEAD.pack(low, len(column), width) + data


def _wide(data: bytes) -> Int64:
    """What `_narrow` was given; nothing of no bytes."""
    if not data:
        return np.empty(0, np.int64)
    low, count, width = _NARROW_HEAD.unpack_from(data)
    if width not in (0, 1, 2, 4, 8) or len(data) != _NARROW_HEAD.size + count * width or count > _MOST_ENTRIES:
        raise ValueError(f"column: expected {count} entries of {width} bytes, got {len(data)} bytes")
    if not width:
        return np.full(count, low, np.int64)
    above: Int64 = np.frombuffer(data, f"<u{width}", offset=_NARROW_HEAD.size).astype(np.int64)
    above += low
    return above

"""Changes of the joiner to and from bytes, whole columns at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.joiner_change import JoinerChange, Tally
from bandits.texts import Pairs, Texts
from freshet.v1 import state_pb2

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


def encode_change(change: JoinerChange) -> bytes:
    """Bytes of a change, without its dead letters, which are stored on their own."""
    message = state_pb2.JoinerChangeColumns(
        tally=change.tally.as_dict(),
        row_request_ids=change.row_keys.request,
        row_item_ids=change.row_keys.item,
        click_request_ids=change.click_keys.request,
        click_item_ids=change.click_keys.item,
    )
    for name in _NUMBERS:
        setattr(message, name, getattr(change, name))
    for names, dtype in _DTYPES:
        for name in names:
            column: npt.NDArray[np.integer] = getattr(change, name)
            setattr(message, name, column.astype(dtype).tobytes())
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
            columns[name] = np.frombuffer(getattr(message, name), dtype)
    for name in _OPTIONAL_FLAGS:
        columns[name] = np.frombuffer(getattr(message, name), np.uint8) != 0
    numbers: dict[str, Any] = {name: int(getattr(message, name)) for name in _NUMBERS}
    return JoinerChange(
        tally=Tally(**dict(message.tally)),
        row_keys=Pairs(Texts.of(message.row_request_ids), Texts.of(message.row_item_ids)),
        click_keys=Pairs(Texts.of(message.click_request_ids), Texts.of(message.click_item_ids)),
        dead=[],
        **numbers,
        **columns,
    )

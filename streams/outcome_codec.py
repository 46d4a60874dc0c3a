"""The ledger's record format: `freshet.v1.OutcomeBatch` to and from columns, whole columns at a time."""

import numpy as np
import numpy.typing as npt

from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC, Outcomes
from bandits.sums import UNIT
from freshet.v1 import outcomes_pb2

FORMAT = 1


class LedgerError(ValueError):
    """A ledger record that cannot be read."""


def encode_outcomes(outcomes: Outcomes) -> bytes:
    """Bytes of an OutcomeBatch."""
    message = outcomes_pb2.OutcomeColumns(
        format=FORMAT,
        joiner_partition=outcomes.joiner_partition,
        sequence=outcomes.sequence,
        impressions_position=outcomes.impressions_position,
        clicks_position=outcomes.clicks_position,
        item_ids=outcomes.item_ids,
        context_ends=_u32(outcomes.context_ends),
        context_clusters=_u32(outcomes.context_cluster),
        context_x=_u32(outcomes.context_x),
        item=_u32(outcomes.item),
        context=_u32(outcomes.context),
        impressions=_u32(outcomes.impressions),
        reward=_u32(outcomes.reward),
        cause_topic=_u32(outcomes.cause_topic),
        cause_offset=outcomes.cause_offset.astype("<u8").tobytes(),
        cause_index=_u32(outcomes.cause_index),
    )
    return message.SerializeToString()


def decode_outcomes(record: bytes) -> Outcomes:
    """Columns of an OutcomeBatch.

    Raises:
        LedgerError: the bytes are not one, its columns do not fit together, or a number is out of its range.
    """
    message = outcomes_pb2.OutcomeColumns()
    try:
        message.ParseFromString(record)
        if message.format != FORMAT:
            raise LedgerError(f"format: expected {FORMAT}, got {message.format}")
        outcomes = Outcomes(
            joiner_partition=message.joiner_partition,
            sequence=message.sequence,
            impressions_position=message.impressions_position,
            clicks_position=message.clicks_position,
            item_ids=list(message.item_ids),
            context_ends=_column(message.context_ends, np.int64),
            context_cluster=_column(message.context_clusters, np.int32),
            context_x=_column(message.context_x, np.int64),
            item=_column(message.item, np.int32),
            context=_column(message.context, np.int32),
            impressions=_column(message.impressions, np.int64),
            reward=_column(message.reward, np.int64),
            cause_topic=_column(message.cause_topic, np.int32),
            cause_offset=np.frombuffer(message.cause_offset, "<u8").astype(np.int64),
            cause_index=_column(message.cause_index, np.int32),
        )
    except LedgerError:
        raise
    except Exception as error:  # protobuf and numpy each have their own ways to dislike bytes
        raise LedgerError(f"record: expected an OutcomeBatch, got {len(record)} bytes that are none") from error
    _check(outcomes)
    _check_values(outcomes)
    return outcomes


def _check(outcomes: Outcomes) -> None:
    facts = len(outcomes.item)
    columns = ("context", "impressions", "reward", "cause_topic", "cause_offset", "cause_index")
    for name in columns:
        if len(getattr(outcomes, name)) != facts:
            raise LedgerError(f"{name}: expected {facts} entries as in item, got {len(getattr(outcomes, name))}")
    if facts and (outcomes.item.min() < 0 or outcomes.item.max() >= len(outcomes.item_ids)):
        raise LedgerError(f"item: expected numbers below {len(outcomes.item_ids)}")
    ends = outcomes.context_ends
    if facts and (outcomes.context.min() < 0 or outcomes.context.max() >= len(ends)):
        raise LedgerError(f"context: expected numbers below {len(ends)}")
    elements = len(outcomes.context_cluster)
    if len(outcomes.context_x) != elements or (np.diff(ends, prepend=0) < 0).any():
        raise LedgerError("context_ends: expected ascending ends of parallel columns")
    if (int(ends[-1]) if len(ends) else 0) != elements:
        raise LedgerError(f"context_ends: expected the last to be {elements}")


def _check_values(outcomes: Outcomes) -> None:
    """Sums are exact only for numbers within these ranges."""
    ranges: dict[str, tuple[npt.NDArray[np.integer], int, int]] = {
        "context_x": (outcomes.context_x, 1, UNIT),
        "context_clusters": (outcomes.context_cluster, 0, np.iinfo(np.int32).max),
        "impressions": (outcomes.impressions, 0, 1),
        "cause_topic": (outcomes.cause_topic, IMPRESSIONS_TOPIC, CLICKS_TOPIC),
        "cause_offset": (outcomes.cause_offset, 0, np.iinfo(np.int64).max),
    }
    for name, (column, low, high) in ranges.items():
        if len(column) and (column.min() < low or column.max() > high):
            raise LedgerError(f"{name}: expected {low} to {high}, got {column.min()} to {column.max()}")
    first = np.zeros(len(outcomes.context_cluster) + 1, np.bool_)
    first[outcomes.context_ends] = True  # where a context may begin below the end of the one before
    if (np.diff(outcomes.context_cluster) <= 0)[~first[1:-1]].any():
        raise LedgerError("context_clusters: expected to ascend within a context")


def _u32(column: npt.NDArray[np.integer]) -> bytes:
    return column.astype("<u4").tobytes()


def _column(data: bytes, dtype: type[np.integer]) -> npt.NDArray:  # type: ignore[type-arg]
    return np.frombuffer(data, "<u4").astype(dtype)

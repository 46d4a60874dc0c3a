"""Impressions and clicks as columns: what the joiner takes in.

Invariants: within one batch records are in the order of their source log; ids are not empty; numbers are already
within their ranges (the codec that made the columns has checked them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Impressions:
    """Shown slates of a micro-batch. A slate is one Impression message, a row one shown item.

    Attributes:
        request_ids: of each slate.
        occurred_at_ms: int64 of shape (n_slates,), Unix milliseconds; 0 = unknown.
        ingested_at_ms: int64 of shape (n_slates,), when the source log took the record; never decreasing.
        offset: int64 of shape (n_slates,), offset of the record in the source log.
        index: int32 of shape (n_slates,), number of the slate within its record.
        item_ends: int64 of shape (n_slates,); slate i has rows item_ends[i-1]:item_ends[i].
        item_ids: of each row.
        context_ends: int64 of shape (n_slates,); the context of slate i is context_ends[i-1]:context_ends[i].
        context_cluster: int32, ascending and distinct within a context.
        context_x: int64, round(w * 2^15), 1 <= x <= 2^15.
        position: int32 of each row, from 0; None where positions do not matter.
        passed: bool of shape (n_slates,), True for a surface that is not learned from; None where all are.
    """

    request_ids: Sequence[str]
    occurred_at_ms: Int64
    ingested_at_ms: Int64
    offset: Int64
    index: Int32
    item_ends: Int64
    item_ids: Sequence[str]
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    position: Int32 | None = None
    passed: Bool | None = None

    def __len__(self) -> int:
        return len(self.request_ids)

    @classmethod
    def none(cls) -> "Impressions":
        """No impressions."""
        i64, i32 = np.empty(0, np.int64), np.empty(0, np.int32)
        return cls([], i64, i64, i64, i32, i64, [], i64, i32, i64)


@dataclass(frozen=True, eq=False)
class Clicks:
    """Reactions of a micro-batch.

    Attributes:
        request_ids: of each click.
        item_ids: of each click.
        reward: int64 of shape (n_clicks,), round(r * 2^15) after weight and cap of its kind.
        occurred_at_ms: int64 of shape (n_clicks,), Unix milliseconds; 0 = unknown.
        ingested_at_ms: int64 of shape (n_clicks,), when the source log took the record; never decreasing.
        offset: int64 of shape (n_clicks,), offset of the record in the source log.
        index: int32 of shape (n_clicks,), number of the click within its record.
        kind: int64 of shape (n_clicks,), `bandits.join_rule.kind_numbers`; None where one click counts.
        identity: int64 of shape (n_clicks,), equal for the same reaction sent again; None likewise.
    """

    request_ids: Sequence[str]
    item_ids: Sequence[str]
    reward: Int64
    occurred_at_ms: Int64
    ingested_at_ms: Int64
    offset: Int64
    index: Int32
    kind: Int64 | None = None
    identity: Int64 | None = None

    def __len__(self) -> int:
        return len(self.request_ids)

    @classmethod
    def none(cls) -> "Clicks":
        """No clicks."""
        i64, i32 = np.empty(0, np.int64), np.empty(0, np.int32)
        return cls([], [], i64, i64, i64, i64, i32)

"""Facts as the ledger holds them: with external item ids and their causes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

IMPRESSIONS_TOPIC, CLICKS_TOPIC = 0, 1


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the edges must learn from one micro-batch of one joiner partition.

    Attributes:
        joiner_partition: partition of the joiner.
        sequence: number of this batch among those of the partition, from 1, without holes.
        impressions_position: offset of the next impression record to read after this batch.
        clicks_position: offset of the next click record to read after this batch.
        item_ids: distinct external ids.
        context_ends: int64; the elements of context i are context_ends[i-1]:context_ends[i].
        context_cluster: int32, ascending within a context.
        context_x: int64, parallel to `context_cluster`, unit 2^-15.
        item: int32 of shape (n_facts,), index into `item_ids`.
        context: int32 of shape (n_facts,), number of the context.
        impressions: int64 of shape (n_facts,), 1 or 0.
        reward: int64 of shape (n_facts,), unit 2^-15.
        cause_topic: int32 of shape (n_facts,), IMPRESSIONS_TOPIC or CLICKS_TOPIC.
        cause_offset: int64 of shape (n_facts,).
        cause_index: int32 of shape (n_facts,).
        opening: int64 of shape (n_facts,): 1 where an impression begins to be in flight, -1 where it ends to be, 0
            elsewhere; None = 0 everywhere.
        gamma: int64 of shape (n_facts,): x = gamma * context_x, unit 2^-15; None = 1 everywhere.
        shown_ms: int64 of shape (n_facts,): when the impression that a fact speaks of was shown, Unix milliseconds;
            None where nothing is forgotten.
        half_life_ms: after which a fact counts half as much; 0 = never.
        clock_ms: ingestion clock of the joiner after this batch; 0 where the facts do not depend on it.
        clock_start_ms: the same before this batch.
    """

    joiner_partition: int
    sequence: int
    impressions_position: int
    clicks_position: int
    item_ids: Sequence[str]
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    item: Int32
    context: Int32
    impressions: Int64
    reward: Int64
    cause_topic: Int32
    cause_offset: Int64
    cause_index: Int32
    opening: Int64 | None = None
    gamma: Int64 | None = None
    shown_ms: Int64 | None = None
    half_life_ms: int = 0
    clock_ms: int = 0
    clock_start_ms: int = 0

    def __len__(self) -> int:
        return len(self.item)

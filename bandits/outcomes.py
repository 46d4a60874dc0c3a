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

    def __len__(self) -> int:
        return len(self.item)

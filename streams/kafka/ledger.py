"""Ledger records in Kafka: one joiner micro-batch, split by the partitions of its items.

Invariants:
- Every producer splits alike: the partition of an item is its hash modulo the number of partitions.
- The bytes of a part do not depend on who sends it or how often; the owner's epoch is put behind them when they are
  sent (in protobuf, joined bytes are merged messages).
- A batch is named by (joiner partition, sequence). Parts of one batch name all partitions that got one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandits.arena import Int64, ranges
from bandits.hashing import hash_strings
from bandits.outcomes import Outcomes
from freshet.v1 import kafka_state_pb2
from streams.outcome_codec import encode_outcomes


@dataclass(frozen=True)
class Place:
    """Where a batch begins, and the clock after it.

    Attributes:
        impressions_start, clicks_start: positions before it.
        clock_ms: ingestion clock of the joiner after it.
    """

    impressions_start: int
    clicks_start: int
    clock_ms: int


def partitions_of(item_ids: Sequence[str], n_partitions: int) -> Int64:
    """Ledger partition of each item, int64."""
    hashes = hash_strings(item_ids)[:, 0]
    return (hashes % np.uint64(n_partitions)).astype(np.int64)


def encode_parts(outcomes: Outcomes, place: Place, n_partitions: int) -> dict[int, bytes]:
    """Bytes of each part by ledger partition, without an epoch; no part is empty."""
    if not len(outcomes):
        return {}
    of_item = partitions_of(outcomes.item_ids, n_partitions)
    of_fact = of_item[outcomes.item]
    wanted = np.unique(of_fact).tolist()
    delivery = kafka_state_pb2.OutcomeDelivery(
        impressions_start=place.impressions_start,
        clicks_start=place.clicks_start,
        partitions=wanted,
        clock_ms=place.clock_ms,
    ).SerializeToString()
    return {
        partition: encode_outcomes(_part(outcomes, np.flatnonzero(of_fact == partition))) + delivery
        for partition in wanted
    }


def with_epoch(part: bytes, epoch: int) -> bytes:
    """A part as its owner sends it."""
    return part + kafka_state_pb2.OutcomeDelivery(epoch=epoch).SerializeToString()


def encode_fence(joiner_partition: int, epoch: int) -> bytes:
    """A record that shuts out the owners before this one."""
    none = Outcomes(
        joiner_partition=joiner_partition,
        sequence=0,
        impressions_position=0,
        clicks_position=0,
        item_ids=[],
        **dict.fromkeys(_COLUMNS, np.empty(0, np.int64)),  # type: ignore[arg-type]
    )
    return encode_outcomes(none) + kafka_state_pb2.OutcomeDelivery(epoch=epoch, fence=True).SerializeToString()


def decode_delivery(record: bytes) -> kafka_state_pb2.OutcomeDelivery:
    """How a record was delivered.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    try:
        return kafka_state_pb2.OutcomeDelivery.FromString(record)
    except Exception as error:
        raise ValueError(f"record: expected an OutcomeBatch, got {len(record)} bytes that are none") from error


def _part(outcomes: Outcomes, facts: Int64) -> Outcomes:
    used_items, item = np.unique(outcomes.item[facts], return_inverse=True)
    used, context = np.unique(outcomes.context[facts], return_inverse=True)
    sizes = np.diff(outcomes.context_ends, prepend=0)[used]
    elements = ranges(outcomes.context_ends[used] - sizes, sizes)
    return replace(
        outcomes,
        item_ids=[outcomes.item_ids[number] for number in used_items.tolist()],
        context_ends=np.cumsum(sizes),
        context_cluster=outcomes.context_cluster[elements],
        context_x=outcomes.context_x[elements],
        item=item.astype(np.int32),
        context=context.astype(np.int32),
        impressions=outcomes.impressions[facts],
        reward=outcomes.reward[facts],
        cause_topic=outcomes.cause_topic[facts],
        cause_offset=outcomes.cause_offset[facts],
        cause_index=outcomes.cause_index[facts],
    )


_COLUMNS = (
    "context_ends",
    "context_cluster",
    "context_x",
    "item",
    "context",
    "impressions",
    "reward",
    "cause_topic",
    "cause_offset",
    "cause_index",
)

__all__ = [
    "Place",
    "decode_delivery",
    "encode_fence",
    "encode_parts",
    "partitions_of",
    "with_epoch",
]

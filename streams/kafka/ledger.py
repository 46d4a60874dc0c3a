"""Ledger records in Kafka: one joiner micro-batch, split by the partitions of its items.

Invariants:
- Every producer splits alike: the partition of an item is its hash modulo the number of partitions.
- The bytes of a part do not depend on who sends it or how often; the owner's epoch is put behind them when they are
  sent (in protobuf, joined bytes are merged messages).
- A batch is named by (joiner partition, sequence). Parts of one batch name all partitions that got one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandits.arena import Int64
from bandits.outcomes import Outcomes
from bandits.texts import Texts
from freshet.v1 import kafka_state_pb2
from streams.kafka.ledger_parts import bodies
from streams.outcome_codec import COLUMNS, encode_head, encode_optional, encode_outcomes


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
    from bandits.numba_texts import first_hashes

    texts = Texts.of(item_ids)
    hashes = np.empty(len(texts), np.uint64)
    first_hashes(texts.data, texts.at, texts.size, hashes)
    return (hashes % np.uint64(n_partitions)).astype(np.int64)


def encode_parts(outcomes: Outcomes, place: Place, n_partitions: int) -> dict[int, bytes]:
    """Bytes of each part by ledger partition, without an epoch; no part is empty.

    Args:
        outcomes: of one micro-batch.
        place: of the batch.
        n_partitions: of the ledger.
    """
    if not len(outcomes):
        return {}
    data, split = bodies(outcomes, partitions_of(outcomes.item_ids, n_partitions), n_partitions)
    facts, ends = split.fact_ends.tolist(), split.body_ends.tolist()
    wanted = [at for at in range(n_partitions) if facts[at] < facts[at + 1]]
    head = encode_head(outcomes)
    delivery = kafka_state_pb2.OutcomeDelivery(
        impressions_start=place.impressions_start,
        clicks_start=place.clicks_start,
        partitions=wanted,
        clock_ms=place.clock_ms,
    ).SerializeToString()
    more = encode_optional(outcomes, split.facts, facts)
    return {at: b"".join((head, data[ends[at] : ends[at + 1]], more[at], delivery)) for at in wanted}


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
        **dict.fromkeys(COLUMNS, np.empty(0, np.int64)),  # type: ignore[arg-type]
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


__all__ = [
    "Place",
    "decode_delivery",
    "encode_fence",
    "encode_parts",
    "partitions_of",
    "with_epoch",
]

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
from bandits.outcomes import Outcomes
from bandits.texts import Texts
from freshet.v1 import kafka_state_pb2
from streams.outcome_codec import COLUMNS, FACT_COLUMNS, OPTIONAL_COLUMNS, encode_outcomes, encode_stretches


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
    sorted_outcomes, bounds = _by_partition(outcomes, partitions_of(outcomes.item_ids, n_partitions), n_partitions)
    records = encode_stretches(sorted_outcomes, **bounds)
    wanted = [at for at in range(n_partitions) if bounds["facts"][at] < bounds["facts"][at + 1]]
    delivery = kafka_state_pb2.OutcomeDelivery(
        impressions_start=place.impressions_start,
        clicks_start=place.clicks_start,
        partitions=wanted,
        clock_ms=place.clock_ms,
    ).SerializeToString()
    return {partition: records[partition] + delivery for partition in wanted}


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


def _by_partition(outcomes: Outcomes, of_item: Int64, n_partitions: int) -> tuple[Outcomes, dict[str, list[int]]]:
    """Columns with the parts one after the other, and where each begins; numbers count within their part."""
    edges = np.arange(n_partitions + 1)
    of_fact = of_item[outcomes.item]
    facts = np.argsort(of_fact, kind="stable")
    of_fact = of_fact[facts]
    # An item lies in one part; a context is repeated in each part that has a fact in it.
    items = np.argsort(of_item, kind="stable")
    item_bounds = np.searchsorted(of_item[items], edges)
    item_rank = np.empty(len(items), np.int64)
    item_rank[items] = np.arange(len(items))
    n_contexts = len(outcomes.context_ends)
    pairs, context_rank = np.unique(of_fact * n_contexts + outcomes.context[facts], return_inverse=True)
    of_context, contexts = np.divmod(pairs, n_contexts)
    context_bounds = np.searchsorted(of_context, edges)
    sizes = np.diff(outcomes.context_ends, prepend=0)[contexts]
    elements = ranges(outcomes.context_ends[contexts] - sizes, sizes)
    ends = np.cumsum(sizes)
    element_bounds = np.concatenate([np.zeros(1, np.int64), ends])[context_bounds]
    by_fact = {name: getattr(outcomes, name)[facts] for name in FACT_COLUMNS}
    given = (name for name in OPTIONAL_COLUMNS if getattr(outcomes, name) is not None)
    by_fact |= {name: getattr(outcomes, name)[facts] for name in given}
    by_fact |= {
        "item": item_rank[outcomes.item[facts]] - item_bounds[of_fact],
        "context": context_rank - context_bounds[of_fact],
    }
    sorted_outcomes = replace(
        outcomes,
        item_ids=Texts.of(outcomes.item_ids).take(items),
        context_ends=ends - element_bounds[of_context],
        context_cluster=outcomes.context_cluster[elements],
        context_x=outcomes.context_x[elements],
        **by_fact,
    )
    bounds = {
        "facts": np.searchsorted(of_fact, edges).tolist(),
        "items": item_bounds.tolist(),
        "contexts": context_bounds.tolist(),
        "elements": element_bounds.tolist(),
    }
    return sorted_outcomes, bounds


__all__ = [
    "Place",
    "decode_delivery",
    "encode_fence",
    "encode_parts",
    "partitions_of",
    "with_epoch",
]

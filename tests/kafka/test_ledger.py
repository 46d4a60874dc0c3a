"""Ledger records: parts of a batch, their owner, and the fields that two messages share."""

import numpy as np
import pytest

from bandits.outcomes import Outcomes
from freshet.v1 import kafka_state_pb2, outcomes_pb2
from streams.kafka.ledger import Place, decode_delivery, encode_fence, encode_parts, partitions_of, with_epoch
from streams.outcome_codec import decode_outcomes


def random_outcomes(rng: np.random.Generator, facts: int) -> Outcomes:
    sizes = rng.integers(1, 4, 6)
    clusters = np.concatenate([np.sort(rng.choice(20, size, replace=False)) for size in sizes])
    return Outcomes(
        joiner_partition=3,
        sequence=9,
        impressions_position=100,
        clicks_position=50,
        item_ids=[f"item-{i}" for i in range(7)],
        context_ends=np.cumsum(sizes),
        context_cluster=clusters.astype(np.int32),
        context_x=rng.integers(1, 1 << 15, len(clusters)),
        item=rng.integers(0, 7, facts).astype(np.int32),
        context=rng.integers(0, 6, facts).astype(np.int32),
        impressions=rng.integers(0, 2, facts),
        reward=rng.integers(0, 1 << 15, facts),
        cause_topic=rng.integers(0, 2, facts).astype(np.int32),
        cause_offset=rng.integers(0, 100, facts),
        cause_index=rng.integers(0, 9, facts).astype(np.int32),
        opening=rng.integers(-1, 2, facts),
        gamma=rng.integers(1, 1 << 15, facts),
        shown_ms=rng.integers(1, 1 << 40, facts),
        half_life_ms=3_600_000,
    )


def plain(outcomes: Outcomes) -> list[tuple]:
    """Facts with ids and contexts spelled out."""
    starts = np.concatenate([[0], outcomes.context_ends])
    spelled = []
    for i in range(len(outcomes)):
        own = slice(starts[outcomes.context[i]], starts[outcomes.context[i] + 1])
        context = tuple(zip(outcomes.context_cluster[own].tolist(), outcomes.context_x[own].tolist(), strict=True))
        rest = [outcomes.impressions, outcomes.reward]
        rest += [column for column in (outcomes.opening, outcomes.gamma, outcomes.shown_ms) if column is not None]
        rest += [outcomes.cause_topic, outcomes.cause_offset, outcomes.cause_index]
        spelled.append((outcomes.item_ids[outcomes.item[i]], context, *(int(column[i]) for column in rest)))
    return spelled


@pytest.mark.parametrize("partitions", [1, 2, 8, 31])
def test_parts_hold_every_fact_once(partitions: int) -> None:
    """Splitting loses and doubles no fact; each lies in its item's partition, and all parts name each other."""
    outcomes = random_outcomes(np.random.default_rng(partitions), 50)
    parts = encode_parts(outcomes, Place(90, 40, 1234), partitions)
    found: list[tuple] = []
    for partition, part in parts.items():
        owned = with_epoch(part, 5)
        decoded, delivery = decode_outcomes(owned), decode_delivery(owned)
        assert (partitions_of(decoded.item_ids, partitions) == partition).all()
        assert (delivery.epoch, delivery.sequence, list(delivery.partitions)) == (5, 9, sorted(parts))
        assert (delivery.impressions_start, delivery.clicks_start, delivery.clock_ms) == (90, 40, 1234)
        found += plain(decoded)
    assert sorted(found) == sorted(plain(outcomes))


def test_the_partition_of_an_item_never_changes() -> None:
    """Another split would part the rows of an item from its facts."""
    assert partitions_of(["item-0", "item-1", "item-2", "ä", "x" * 100], 8).tolist() == [0, 1, 3, 4, 0]


def test_a_later_owner_sends_the_same_part() -> None:
    """The epoch put behind a part replaces the one before it and leaves the facts alone."""
    outcomes = random_outcomes(np.random.default_rng(1), 5)
    (part,) = encode_parts(outcomes, Place(0, 0, 0), 1).values()
    again = with_epoch(with_epoch(part, 5), 300)
    assert decode_delivery(again).epoch == 300
    assert plain(decode_outcomes(again)) == plain(outcomes)


def test_a_fence_is_a_readable_record_without_facts() -> None:
    """Readers that know nothing of fences read an empty batch."""
    fence = encode_fence(4, 7)
    delivery = decode_delivery(fence)
    assert (delivery.fence, delivery.epoch, delivery.joiner_partition) == (True, 7, 4)
    assert len(decode_outcomes(fence)) == 0


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        (outcomes_pb2.OutcomeBatch, kafka_state_pb2.OutcomeDelivery),
        (outcomes_pb2.OutcomeColumns, kafka_state_pb2.OutcomeDelivery),
    ],
)
def test_delivery_fields_are_those_of_the_ledger_record(whole: type, part: type) -> None:
    """Bytes of one are put behind bytes of the other, so numbers and types must be equal."""
    of_whole = {field.name: (field.number, field.type) for field in whole.DESCRIPTOR.fields}
    for field in part.DESCRIPTOR.fields:
        assert of_whole[field.name] == (field.number, field.type)

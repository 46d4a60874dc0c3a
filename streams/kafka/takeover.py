"""Taking joiner partitions over: shutting out the owner before, and learning where it stopped.

    1. take an epoch above every one known for the partition
    2. write a fence with it to every ledger partition, and wait until the broker has them all
    3. read the ledger up to the fences: what lies there is all that will ever count of the owners before
    4. if a higher epoch is found there, begin again above it

Learners drop every batch whose epoch is below the highest they have read of its joiner partition. So a batch of a
replaced owner lies before the fence, where the new owner has read it, or is ignored: each learner and the new owner
judge by the same records in the same order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.kafka.joiner_partition import JoinerPartition
from streams.kafka.ledger import decode_delivery, encode_fence
from streams.kafka.log_reader import LogReader
from streams.kafka.parameter_rows import is_fence, is_mark
from streams.kafka.partition import Surroundings
from streams.kafka.sender import Outgoing

Fences = Mapping[int, Mapping[int, int]]  # offset by joiner partition and ledger partition


@dataclass
class LedgerView:
    """What the ledger says of a joiner partition.

    Attributes:
        last: the batch of the highest sequence that counts, of any of its parts; None if there is none.
        present: ledger partitions that have a part of it.
        highest_epoch: of all records, the own fence apart.
        applied: highest sequence that learners say they have applied; only looked up for an empty disk and a ledger
            whose beginning has been deleted.
    """

    last: kafka_state_pb2.OutcomeDelivery | None = None
    present: set[int] = field(default_factory=set)
    highest_epoch: int = 0
    applied: int = 0

    @property
    def missing(self) -> set[int]:
        """Ledger partitions that lack their part of the last batch."""
        return set(self.last.partitions) - self.present if self.last else set()

    def take(self, delivery: kafka_state_pb2.OutcomeDelivery, ledger_partition: int) -> None:
        """Take a batch that counts."""
        if self.last is None or delivery.sequence > self.last.sequence:
            self.last, self.present = delivery, set()
        if delivery.sequence == self.last.sequence:
            self.last = delivery if delivery.epoch > self.last.epoch else self.last
            self.present.add(ledger_partition)


async def take_over(
    partitions: Sequence[JoinerPartition], around: Surroundings, reader: LogReader, *, generation: int
) -> dict[int, LedgerView]:
    """Shut out the owners before and read what they left; sets the partitions' epochs.

    Args:
        partitions: those to be taken over.
        around: what partitions share.
        reader: reads the ledger.
        generation: of the consumer group; it grows with every change of owners while the group lives.

    Returns:
        What the ledger says, by number of the partition.
    """
    for partition in partitions:
        partition.epoch = max(generation, partition.state.head.epoch + 1)
    views: dict[int, LedgerView] = {}
    left = list(partitions)
    while left:
        fences = await _fence(left, around)
        views |= await _scan(left, around, reader, fences)
        again: list[JoinerPartition] = []
        for partition in left:
            highest = views[partition.number].highest_epoch
            if highest >= partition.epoch:  # the group was made anew, or the store is an old one
                partition.epoch = highest + 1
                again.append(partition)
        left = again
    if any(not partition.state.sequence or partition.state.head.recovering for partition in partitions):
        for number, sequence in (await _applied(around, reader)).items():
            if number in views:
                views[number].applied = sequence
    return views


async def _applied(around: Surroundings, reader: LogReader) -> dict[int, int]:
    """Highest applied sequence by joiner partition, if the ledger has lost its beginning and cannot say."""
    ledger = [TP(around.names.outcomes, number) for number in range(around.ledger_partitions)]
    if not any(first for first, _ in (await reader.bounds(ledger)).values()):
        return {}
    applied: dict[int, int] = {}
    rows = [TP(around.names.parameters, number) for number in range(around.ledger_partitions)]
    async for _, records in reader.read(await reader.bounds(rows)):
        for record in records:
            if record.key and record.value and (is_mark(record.key) or is_fence(record.key)):
                mark = parameters_pb2.PartitionMark.FromString(record.value)
                for number, sequence in mark.applied_sequences.items():
                    applied[number] = max(applied.get(number, 0), sequence)
    return applied


async def _fence(partitions: Sequence[JoinerPartition], around: Surroundings) -> Fences:
    places = [
        (partition, ledger_partition)
        for partition in partitions
        for ledger_partition in range(around.ledger_partitions)
    ]
    offsets = await around.sender.send(
        [
            Outgoing(around.names.outcomes, at, None, encode_fence(partition.number, partition.epoch))
            for partition, at in places
        ]
    )
    fences: dict[int, dict[int, int]] = {partition.number: {} for partition in partitions}
    for (partition, at), offset in zip(places, offsets, strict=True):
        fences[partition.number][at] = offset
    return fences


async def _scan(
    partitions: Sequence[JoinerPartition], around: Surroundings, reader: LogReader, fences: Fences
) -> dict[int, LedgerView]:
    by_number = {partition.number: partition for partition in partitions}
    views = {number: LedgerView() for number in by_number}
    shut_out: dict[tuple[int, int], int] = {}  # highest epoch, by joiner partition and ledger partition
    async for tp, records in reader.read(await _stretches(partitions, around, reader, fences)):
        for record in records:
            delivery = decode_delivery(record.value or b"")
            number = delivery.joiner_partition
            view = views.get(number)
            if view is None or record.offset >= fences[number][tp.partition]:
                continue
            view.highest_epoch = max(view.highest_epoch, delivery.epoch)
            key = (number, tp.partition)
            counts = delivery.epoch >= shut_out.get(key, 0)
            shut_out[key] = max(shut_out.get(key, 0), delivery.epoch)
            known = record.offset < by_number[number].state.head.ledger_offsets[tp.partition]
            if counts and not delivery.fence and not known:
                view.take(delivery, tp.partition)
    return views


async def _stretches(
    partitions: Sequence[JoinerPartition], around: Surroundings, reader: LogReader, fences: Fences
) -> dict[TP, tuple[int, int]]:
    """What to read of each ledger partition: from what every store knows to the last fence."""
    tps = [TP(around.names.outcomes, number) for number in range(around.ledger_partitions)]
    bounds = await reader.bounds(tps)
    stretches = {}
    for tp in tps:
        start = min(partition.state.head.ledger_offsets[tp.partition] for partition in partitions)
        end = max(fences[partition.number][tp.partition] for partition in partitions)
        stretches[tp] = (max(start, bounds[tp][0]), end)
    return stretches

"""A worker that slept while another took its joiner partition over: what it may say that it knows of the ledger."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from freshet.v1 import kafka_state_pb2
from streams.kafka.joiner_rounds import send_outboxes
from streams.kafka.ledger import with_epoch
from streams.kafka.sender import Outgoing
from streams.kafka.takeover import take_over
from streams.topics import TopicNames

NAMES = TopicNames("late")
OLD, NEW, AGAIN = 1, 2, 3  # epochs


class SimulatedLedger:
    """One ledger partition, as sender and as reader."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        return [self._append(record.value or b"") for record in records]

    async def send_batches(
        self, topic: str, rows: Mapping[int, Sequence[tuple[bytes | None, bytes]]]
    ) -> dict[int, list[int]]:
        return {partition: [self._append(value) for _, value in pairs] for partition, pairs in rows.items()}

    async def bounds(self, tps: Sequence[TP]) -> dict[TP, tuple[int, int]]:
        return {tp: (0, len(self.values)) for tp in tps}

    async def read(self, stretches: Mapping[TP, tuple[int, int]]) -> AsyncIterator[tuple[TP, list[Any]]]:
        for tp, (start, end) in stretches.items():
            yield tp, [SimpleNamespace(offset=at, value=self.values[at]) for at in range(start, end)]

    def _append(self, value: bytes) -> int:
        self.values.append(value)
        return len(self.values) - 1


def batch(sequence: int) -> bytes:
    """A part of a micro-batch, without an epoch."""
    return kafka_state_pb2.OutcomeDelivery(sequence=sequence, partitions=[0]).SerializeToString()


def owner(sequence: int) -> Any:
    """A joiner partition, as far as sending and taking over look at it."""
    state = SimpleNamespace(
        head=kafka_state_pb2.JoinerHead(), joiner=SimpleNamespace(sequence=sequence), sequence=sequence
    )
    return SimpleNamespace(number=0, epoch=OLD, state=state)


@pytest.mark.parametrize("sure", [True, False])
def test_a_sleeper_does_not_claim_what_another_wrote_meanwhile(*, sure: bool) -> None:
    """Its late record lies behind the other's: only who is sure of the partition has read up to its own."""
    ledger, sleeper = SimulatedLedger(), owner(sequence=6)
    around: Any = SimpleNamespace(
        names=NAMES,
        ledger_partitions=1,
        sender=ledger,
        consumer=SimpleNamespace(thread=SimpleNamespace(is_sure=sure)),
    )
    late = [(sleeper, 6, [Outgoing(NAMES.outcomes, 0, None, batch(6))])]

    async def scenario() -> Any:
        if not sure:  # the other one takes over, and writes the same batch and one more
            await take_over([owner(sequence=5)], around, ledger, generation=NEW)  # type: ignore[arg-type]
            ledger.values += [with_epoch(batch(number), NEW) for number in (6, 7)]
        await send_outboxes(around, late)
        # The sleeper gets the partition again, with the store that it had.
        return (await take_over([sleeper], around, ledger, generation=AGAIN))[0]  # type: ignore[arg-type]

    view = asyncio.run(scenario())
    assert (sleeper.state.head.ledger_offsets[0] > 0) is sure
    if sure:
        assert view.last is None  # nothing in the ledger that its store does not know
    else:
        assert (view.last.sequence, view.last.epoch, view.missing) == (7, NEW, set())

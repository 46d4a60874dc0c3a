"""A joiner partition: impressions[p] and clicks[p] in, ledger records and dead letters out.

The commit path:

    1. decode and join, without changing the joiner
    2. write ONE WriteBatch, synced: the joiner's change, both positions, and the outbox (the ledger records of this
       micro-batch split by partition, its dead letters)
    3. send the outbox
    4. wait until the broker has all of it
    5. mark it as sent; the mark is written with the next micro-batch
    6. acknowledge: the positions may be copied to the group

A crash before 2 has happened never. After 2 the micro-batch is decided: whoever recovers sends the same bytes with
the same sequence, and learners drop what they have. Only one micro-batch is on its way at a time, so that only the
last one in the ledger can be incomplete.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from faust.types import TP

from bandits.events import Clicks, Impressions
from bandits.joiner_change import JoinerChange
from freshet.v1 import kafka_state_pb2
from streams.failpoints import failpoint
from streams.kafka.chunk import Chunk
from streams.kafka.dead_letters import letters
from streams.kafka.joiner_store import JoinerStore, with_owner
from streams.kafka.ledger import Place, encode_parts
from streams.kafka.partition import Partition, Surroundings
from streams.kafka.sender import Outgoing
from streams.kafka.side_by_side import SideBySide
from streams.kafka.source_codec import DecodedColumns

# How far the broker's clock and this machine's may disagree before a click could miss its impression.
_CLOCK_MARGIN_MS = 5_000
_CLOSED_TOGETHER_S = 0.5  # windows that close within this time share a micro-batch
_LOOK_AGAIN_S = 0.02


class JoinerPartition(Partition):
    """Owner of one joiner partition.

    Args:
        number: of the partition.
        around: what all partitions of the worker share.

    Raises:
        StoreError: the store cannot be used.
    """

    def __init__(self, number: int, around: Surroundings) -> None:
        self.number = number
        self.impressions = TP(around.names.impressions, number)
        self.clicks = TP(around.names.clicks, number)
        super().__init__(around, [self.impressions, self.clicks])
        rule = around.settings.rule
        self.state = JoinerStore(
            folder_of(around.settings.data_dir, number),
            rule,
            partition=number,
            ledger_partitions=around.ledger_partitions,
        )
        self.epoch = 0  # set by the takeover
        self._look_at_s = 0.0
        self._fetched = SideBySide(self.tps, max_batch_bytes=around.settings.max_batch_bytes)
        self._held: set[TP] = set()
        self._committing = False
        self._impression_decoder, self._click_decoder = around.decoders

    def positions(self) -> Mapping[TP, int]:
        """Where both topics are to be read from."""
        joiner = self.state.joiner
        return {self.impressions: joiner.impressions_position, self.clicks: joiner.clicks_position}

    def due_in_s(self) -> float | None:
        """When the clock is to be looked at, as it may close windows; None while nothing is in flight."""
        if self.state.joiner.closes_at_ms is None:
            return None
        return self._look_at_s - time.monotonic()

    async def deliver(self, chunk: Chunk) -> None:
        """Take a chunk; waits while a micro-batch is being committed and too many are waiting."""
        most = self.around.settings.max_waiting_chunks
        while self._committing and not self._closed and sum(map(self._fetched.chunks_of, self.tps)) >= most:
            self._room.clear()
            await self._room.wait()
        self._fetched.add(chunk)
        self._arrived.set()

    async def _take(self) -> list[Chunk]:
        """Waiting chunks of both topics up to the same time of ingestion, as many as make one micro-batch."""
        self._committing = False
        while True:
            self._room.set()
            seen = {tp: self.around.consumer.thread.seen(tp) for tp in self.tps}
            head = self.state.head
            chunks = self._fetched.take(
                self.positions(),
                {tp: at.end if at else None for tp, at in seen.items()},
                {self.impressions: head.impressions_clock_ms, self.clicks: head.clicks_clock_ms},
            )
            self._missed = self._fetched.missed
            self._arrived.clear()
            await self._hold_back()
            due_s = self.due_in_s()
            if chunks or self._missed or (due_s is not None and due_s <= 0):
                self._committing = True
                return chunks
            with contextlib.suppress(TimeoutError):
                # While something waits for the other topic, that may turn out to have been read to its end.
                await asyncio.wait_for(self._arrived.wait(), _LOOK_AGAIN_S if self._fetched else due_s)

    async def _hold_back(self) -> None:
        """Fetch no more of a topic that is ahead of the other: what waits is bounded."""
        for tp in self.tps:
            full = self._fetched.chunks_of(tp) >= max(self.around.settings.max_waiting_chunks // 2, 1)
            if full != (tp in self._held):
                (self._held.add if full else self._held.discard)(tp)
                await self.around.consumer.thread.hold(tp, full)

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """Make a micro-batch durable, of events or of closing windows, by the steps of the module's head."""
        if not chunks:
            self._look_at_s = time.monotonic() + _CLOSED_TOGETHER_S
            closes_at_ms = self.state.joiner.closes_at_ms
            if closes_at_ms is None or self._clock_ms(self.state.head, self.positions()) < closes_at_ms:
                return
        await self.commit_at(chunks, None)

    async def commit_at(self, chunks: Sequence[Chunk], clock_ms: int | None) -> None:
        """Make a micro-batch durable at a clock that is known already; None = at the clock as it is."""
        # 1. join
        head, change, outbox = self._join(chunks, clock_ms)
        failpoint("joiner-joined")
        # 2. write
        self.state.write(head, change, outbox)
        self.state.joiner.apply(change)
        failpoint("joiner-written")
        # 3. and 4. send and wait
        await self.send_outbox(outbox)

    async def send_outbox(self, outbox: Sequence[Outgoing]) -> None:
        """Steps 3 to 5."""
        ledger = self.around.names.outcomes
        facts = [out for out in outbox if out.topic == ledger]
        refused = [out for out in outbox if out.topic != ledger]
        # Letters first: once the ledger has the batch, nobody reads its records again.
        if refused:
            await self.around.sender.send(refused)
        failpoint("joiner-refused")
        if facts:
            offsets = await self.around.sender.send(with_owner(facts, self.epoch))
            for outgoing, offset in zip(facts, offsets, strict=True):
                self.state.head.ledger_offsets[outgoing.partition] = offset + 1
        failpoint("joiner-sent")
        # 5. mark
        self.state.head.sent = self.state.joiner.sequence
        failpoint("joiner-marked")

    def jump(self, tp: TP, offset: int) -> None:
        """Leave a gap in a source topic."""
        joiner = self.state.joiner
        if tp == self.impressions:
            joiner.impressions_position = offset
        else:
            joiner.clicks_position = offset

    def close(self) -> None:
        """Close the store."""
        self._fetched.clear()
        self.state.close()

    def _join(
        self, chunks: Sequence[Chunk], clock_ms: int | None
    ) -> tuple[kafka_state_pb2.JoinerHead, JoinerChange, list[Outgoing]]:
        state, ledger = self.state, self.around.names.outcomes
        head, joiner = state.next_head(), state.joiner
        shown, clicked = self.decode(chunks, head)
        ends = dict(self.positions()) | {TP(chunk.topic, chunk.partition): chunk.end for chunk in chunks}
        place = Place(joiner.impressions_position, joiner.clicks_position, 0)
        outcomes, change = joiner.join(
            shown.events,
            clicked.events,
            clock_ms=self._clock_ms(head, ends) if clock_ms is None else clock_ms,
        )
        # Records without a good event, and offsets without a record, are behind us too.
        change.impressions_position, change.clicks_position = ends[self.impressions], ends[self.clicks]
        outcomes = replace(
            outcomes,
            sequence=change.sequence + head.sequence_shift,
            impressions_position=change.impressions_position,
            clicks_position=change.clicks_position,
        )
        parts = encode_parts(outcomes, replace(place, clock_ms=change.clock_ms), self.around.ledger_partitions)
        outbox = [Outgoing(ledger, partition, None, part) for partition, part in parts.items()]
        for topic, decoded in ((self.impressions.topic, shown), (self.clicks.topic, clicked)):
            outbox += letters(topic, self.number, decoded.refused)
            head.dead_letters += len(decoded.refused)
        return head, change, outbox

    def decode(
        self, chunks: Sequence[Chunk], head: kafka_state_pb2.JoinerHead
    ) -> tuple[DecodedColumns[Impressions], DecodedColumns[Clicks]]:
        """Events of both topics; the head takes the new ingestion times."""
        records = {tp: [r for c in chunks if c.topic == tp.topic for r in c.records] for tp in self.tps}
        shown = self._impression_decoder.columns(records[self.impressions], clock_ms=head.impressions_clock_ms)
        clicked = self._click_decoder.columns(records[self.clicks], clock_ms=head.clicks_clock_ms)
        head.impressions_clock_ms, head.clicks_clock_ms = shown.clock_ms, clicked.clock_ms
        return shown, clicked

    def _clock_ms(self, head: kafka_state_pb2.JoinerHead, ends: Mapping[TP, int]) -> int:
        """Everything that was ingested before this has been read, from both topics."""
        clocks = ((self.impressions, head.impressions_clock_ms), (self.clicks, head.clicks_clock_ms))
        low: list[int] = []
        for tp, clock_ms in clocks:
            seen = self.around.consumer.thread.seen(tp)
            idle = seen is not None and seen.end <= ends[tp]
            # A topic that is read to its end has nothing older than the moment at which that was seen.
            low.append(max(clock_ms, seen.at_ms - _CLOCK_MARGIN_MS) if seen and idle else clock_ms)
        return min(low)


def folder_of(data_dir: Path, number: int) -> Path:
    """Where the store of a joiner partition is."""
    return data_dir / f"joiner-{number}"

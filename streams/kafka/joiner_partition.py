"""A joiner partition: impressions[p] and clicks[p] in, ledger records and dead letters out.

Its micro-batches are committed in rounds with those of the worker's other joiner partitions (`joiner_rounds`).
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faust.types import TP

from bandits.events import Clicks, Impressions
from bandits.joiner_change import JoinerChange
from freshet.v1 import kafka_state_pb2
from streams.kafka.chunk import Chunk
from streams.kafka.dead_letters import letters
from streams.kafka.joiner_store import JoinerStore
from streams.kafka.ledger import Place, encode_parts
from streams.kafka.partition import Partition, Surroundings
from streams.kafka.sender import Outgoing
from streams.kafka.side_by_side import SideBySide
from streams.kafka.source_codec import DecodedColumns
from streams.store import Batch

# How far the broker's clock and this machine's may disagree before a click could miss its impression.
_CLOCK_MARGIN_MS = 5_000
_CLOSED_TOGETHER_S = 0.5  # windows that close within this time share a micro-batch
_LOOK_AGAIN_S = 0.02  # while something waits for the other topic, which may turn out to have been read to its end


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
        self._fetched = SideBySide(self.tps)
        self._take_at_s = 0.0
        self._close_at_s = 0.0
        self._stored: Mapping[TP, int] = {}
        self._impression_decoder, self._click_decoder = around.decoders

    def positions(self) -> Mapping[TP, int]:
        """Where both topics are to be read from."""
        joiner = self.state.joiner
        return {self.impressions: joiner.impressions_position, self.clicks: joiner.clicks_position}

    def stored_positions(self) -> Mapping[TP, int]:
        """What has been written, and sent."""
        return self._stored

    def acknowledge(self, change: JoinerChange) -> None:
        """Note that a change has been written, and what follows from it sent."""
        self._stored = {self.impressions: change.impressions_position, self.clicks: change.clicks_position}

    async def start(self, arrived: asyncio.Event) -> None:
        """Say where to start: where the store is."""
        await super().start(arrived)
        self._stored = self.positions()

    def wants(self, tp: TP) -> bool:
        """True unless enough of a topic waits: one that is ahead of the other is held back."""
        most = max(self.around.settings.max_waiting_chunks // 2, 1)
        return self.is_started and self._fetched.chunks_of(tp) < most

    def deliver(self, chunk: Chunk) -> None:
        """Take a chunk."""
        if self.is_started:
            self._fetched.add(chunk)
            self.waiting_bytes += chunk.size
            self._take_at_s = 0.0
            self.arrived.set()

    def ready_in_s(self) -> float | None:
        """When chunks of both topics may be there, or windows may have closed."""
        times_s = [self._take_at_s] if self._fetched else []
        if self.state.joiner.closes_at_ms is not None:
            times_s.append(self._close_at_s)
        return min(times_s) - time.monotonic() if times_s else None

    async def take(self, limit_bytes: int) -> list[Chunk] | None:
        """Waiting chunks of both topics up to one time of ingestion; none of them if windows have closed."""
        positions, head, seen = self.positions(), self.state.head, self.around.consumer.thread.seen
        ends = {tp: at.end if (at := seen(tp)) else None for tp in self.tps}
        clocks_ms = {self.impressions: head.impressions_clock_ms, self.clicks: head.clicks_clock_ms}
        chunks = self._fetched.take(positions, ends, clocks_ms, limit_bytes=limit_bytes)
        self.waiting_bytes = self._fetched.size
        for tp in self._fetched.missed:
            # Something between two deliveries was lost, as it happens around a rebalance: read it again.
            await self.around.consumer.start_from(tp, positions[tp])
        if chunks:
            self._take_at_s = 0.0
            return chunks
        now_s, closes_at_ms = time.monotonic(), self.state.joiner.closes_at_ms
        self._take_at_s = now_s + _LOOK_AGAIN_S
        if closes_at_ms is None or now_s < self._close_at_s:
            return None
        self._close_at_s = now_s + _CLOSED_TOGETHER_S
        return [] if self._clock_ms(head, positions) >= closes_at_ms else None

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

    def join(self, chunks: Sequence[Chunk], clock_ms: int | None = None) -> "Joined":
        """A micro-batch, of events or of closing windows, joined without changing anything; from any thread.

        Args:
            chunks: of events; may be none.
            clock_ms: if it is known already; None = the clock as it is.
        """
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
        parts = encode_parts(
            outcomes,
            replace(place, clock_ms=change.clock_ms),
            self.around.ledger_partitions,
        )
        outbox = [Outgoing(ledger, partition, None, part) for partition, part in parts.items()]
        for topic, decoded in ((self.impressions.topic, shown), (self.clicks.topic, clicked)):
            outbox += letters(self.around.names, topic, self.number, decoded.refused)
            head.dead_letters += len(decoded.refused)
        return Joined(self, head, change, outbox, state.batch(change, outbox))

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


@dataclass(frozen=True, eq=False)
class Joined:
    """A micro-batch that has been joined.

    Attributes:
        partition: of the joiner.
        head: after it.
        change: of the joiner.
        outbox: what must be sent, without epochs.
        batch: change and outbox for the store; the head comes with `seal`.
    """

    partition: JoinerPartition
    head: kafka_state_pb2.JoinerHead
    change: JoinerChange
    outbox: list[Outgoing]
    batch: Batch

    def take_over(self) -> None:
        """Let the partition go on from it, in memory; what has been sent meanwhile is in the head before."""
        before = self.partition.state.head
        self.head.sent = before.sent
        self.head.ledger_offsets.update(before.ledger_offsets)
        self.partition.state.head = self.head
        self.partition.state.joiner.apply(self.change)

    def seal(self) -> None:
        """Put the head behind it, with what has been sent by now; before the partition joins the next one."""
        self.partition.state.put_head(self.batch, self.head)

    def write(self) -> None:
        """Write it to the store; from any thread."""
        self.partition.state.store.write(self.batch)


def folder_of(data_dir: Path, number: int) -> Path:
    """Where the store of a joiner partition is."""
    return data_dir / f"joiner-{number}"

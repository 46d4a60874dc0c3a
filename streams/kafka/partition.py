"""One owned partition: its inbox, and the loop that commits what is in it.

Invariants: one task owns the state of a partition; being ended at any await is like a crash there, and the next
owner recovers from what is on disk and in the topics; a chunk that does not follow the one before is never applied.
"""

import abc
import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from faust.types import TP

from bandits.backend import Backend
from streams.kafka.chunk import Chunk
from streams.kafka.sender import Sender
from streams.kafka.source_codec import ClickDecoder, ImpressionDecoder, click_decoder, impression_decoder
from streams.kafka.transport import ChunkConsumer
from streams.kafka.worker_settings import WorkerSettings
from streams.topics import TopicNames


class WorkerError(RuntimeError):
    """The worker cannot go on; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Surroundings:
    """What all partitions of a worker share.

    Attributes:
        settings: of the worker.
        names: of the topics.
        consumer: delivers chunks.
        sender: sends records.
        backend: adds the facts.
        ledger_partitions: partitions of the ledger.
    """

    settings: WorkerSettings
    names: TopicNames
    consumer: ChunkConsumer
    sender: Sender
    backend: Backend
    ledger_partitions: int

    def __post_init__(self) -> None:
        # What has to be compiled is compiled here, before the worker joins its group: later the group would wait.
        _ = self.decoders

    @cached_property
    def decoders(self) -> tuple[ImpressionDecoder, ClickDecoder]:
        """What reads the records of both source topics."""
        rule = self.settings.rule
        return impression_decoder(rule), click_decoder(rule)


class Partition(abc.ABC):
    """A partition that this worker owns.

    Args:
        around: what all partitions share.
        tps: the topic partitions it reads.
    """

    def __init__(self, around: Surroundings, tps: Sequence[TP]) -> None:
        self.around = around
        self.tps = tuple(tps)
        self._inbox: deque[Chunk] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._missed: set[TP] = set()

    @abc.abstractmethod
    def positions(self) -> Mapping[TP, int]:
        """Offset of the next record that is not in the store, by topic partition."""

    @abc.abstractmethod
    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """Make a micro-batch durable; without chunks, do what has become due."""

    @abc.abstractmethod
    def due_in_s(self) -> float | None:
        """When `commit` must be called even without chunks; None = never."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give up the partition: close the store."""

    async def deliver(self, chunk: Chunk) -> None:
        """Take a chunk; waits while too many are waiting."""
        while len(self._inbox) >= self.around.settings.max_waiting_chunks and not self._closed:
            self._room.clear()
            await self._room.wait()
        self._inbox.append(chunk)
        self._arrived.set()

    async def run(self) -> None:
        """Say where to start, then commit what comes, for ever."""
        for tp, offset in (await self._checked_positions()).items():
            await self.around.consumer.start_from(tp, offset)
        while True:
            chunks = await self._take()
            for tp in self._missed:
                # Something between two deliveries was lost, as it happens around a rebalance: read it again.
                await self.around.consumer.start_from(tp, self.positions()[tp])
            await self.commit(chunks)

    def end(self) -> None:
        """Let go whoever waits to deliver; then close."""
        self._closed = True
        self._inbox.clear()
        self._room.set()
        self.close()

    async def _take(self) -> list[Chunk]:
        """Waiting chunks that follow what is committed, as many as make one micro-batch; none if it is due."""
        due_s = self.due_in_s()
        if not self._inbox and (due_s is None or due_s > 0):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), due_s)
            except TimeoutError:
                return []
        return self._contiguous()

    def _contiguous(self) -> list[Chunk]:
        position = dict(self.positions())
        chunks: list[Chunk] = []
        size = 0
        self._missed.clear()
        while self._inbox:
            chunk = self._inbox[0]
            tp = TP(chunk.topic, chunk.partition)
            chunk_bytes = sum(len(record.value or b"") for record in chunk.records)
            if chunks and size + chunk_bytes > self.around.settings.max_batch_bytes:
                break
            self._inbox.popleft()
            if chunk.start != position[tp]:
                if chunk.start > position[tp]:
                    self._missed.add(tp)
                continue
            self._missed.discard(tp)
            position[tp] = chunk.end
            size += chunk_bytes
            chunks.append(chunk)
        self._room.set()
        return chunks

    async def _checked_positions(self) -> Mapping[TP, int]:
        """The positions, once the broker has been asked whether they still exist."""
        positions = dict(self.positions())
        bounds = await self.around.consumer.thread.bounds(positions)
        for tp, offset in positions.items():
            first, end = bounds[tp]
            if offset > end:
                raise WorkerError(
                    f"{tp.topic}[{tp.partition}]: the store is at offset {offset}, but the topic ends at {end}: "
                    "it is not the topic that this store has read"
                )
            if offset < first:
                if not self.around.settings.accept_gap:
                    raise WorkerError(
                        f"{tp.topic}[{tp.partition}]: the store is at offset {offset}, but the broker has deleted "
                        f"everything before {first}: {first - offset} records are lost; accept the gap to go on"
                    )
                positions[tp] = first
                self.jump(tp, first)
        return positions

    @abc.abstractmethod
    def jump(self, tp: TP, offset: int) -> None:
        """Go on at an offset, leaving a gap that the operator has accepted."""

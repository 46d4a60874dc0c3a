"""One owned partition: where it is, and what waits for it.

Invariants: a chunk that does not follow the one before is never taken in; nothing is delivered before the partition
has said where it starts, nor after its end.
"""

import abc
import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from faust.types import TP

from bandits.backend import Backend
from bandits.first_use import compile_learning
from streams.kafka.chunk import Chunk
from streams.kafka.ledger import Place, encode_parts
from streams.kafka.sender import Sender
from streams.kafka.side_threads import SideThreads
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
        rows_sender: sends rows; a connection of its own, as the ledger would wait behind them.
        disk: writes to stores.
        joins: a thread that joins, beside the event loop.
        backend: adds the facts.
        ledger_partitions: partitions of the ledger.
    """

    settings: WorkerSettings
    names: TopicNames
    consumer: ChunkConsumer
    sender: Sender
    rows_sender: Sender
    disk: SideThreads
    joins: SideThreads
    backend: Backend
    ledger_partitions: int

    def __post_init__(self) -> None:
        # What has to be compiled is compiled here, before the worker joins its group: later the group would wait.
        _ = self.decoders
        encode_parts(compile_learning(self.settings.rule, self.backend), Place(0, 0, 0), self.ledger_partitions)

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

    Attributes:
        waiting_bytes: of the chunks that wait.
        is_started: chunks may be delivered.
        arrived: set whenever one was.
    """

    def __init__(self, around: Surroundings, tps: Sequence[TP]) -> None:
        self.around = around
        self.tps = tuple(tps)
        self.waiting_bytes = 0
        self._inbox: deque[Chunk] = deque()
        self.arrived = asyncio.Event()
        self.is_started = False

    @abc.abstractmethod
    def positions(self) -> Mapping[TP, int]:
        """Offset of the next record that has not been taken in, by topic partition."""

    @abc.abstractmethod
    def stored_positions(self) -> Mapping[TP, int]:
        """As `positions`, of what is on disk."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give up the partition: close the store."""

    def wants(self, tp: TP) -> bool:
        """True if more of a topic partition may be delivered."""
        return self.is_started and len(self._inbox) < self.around.settings.max_waiting_chunks

    def deliver(self, chunk: Chunk) -> None:
        """Take a chunk."""
        if self.is_started:
            self._inbox.append(chunk)
            self.waiting_bytes += chunk.size
            self.arrived.set()

    async def start(self, arrived: asyncio.Event) -> None:
        """Say where to start.

        Args:
            arrived: set whenever a chunk comes.

        Raises:
            WorkerError: the topics do not fit what has been read of them.
        """
        self.arrived = arrived
        positions = await self._checked_positions()
        self.is_started = True
        for tp, offset in positions.items():
            await self.around.consumer.start_from(tp, offset)

    def end(self) -> None:
        """Close."""
        self.is_started = False
        self._inbox.clear()
        self.waiting_bytes = 0
        self.close()

    def ready_in_s(self) -> float | None:
        """When there may be something to take; None = not before another chunk comes."""
        return 0.0 if self._inbox else None

    async def take(self, limit_bytes: int) -> list[Chunk] | None:
        """Waiting chunks that follow what was taken in before, as many as fit but at least one; None = nothing."""
        position = dict(self.positions())
        chunks: list[Chunk] = []
        missed: set[TP] = set()
        size = 0
        while self._inbox and not (chunks and size + self._inbox[0].size > limit_bytes):
            chunk = self._inbox.popleft()
            self.waiting_bytes -= chunk.size
            tp = TP(chunk.topic, chunk.partition)
            if chunk.start != position[tp]:
                if chunk.start > position[tp]:
                    missed.add(tp)
                continue
            missed.discard(tp)
            position[tp] = chunk.end
            size += chunk.size
            chunks.append(chunk)
        for tp in missed:
            # Something between two deliveries was lost, as it happens around a rebalance: read it again.
            await self.around.consumer.start_from(tp, position[tp])
        return chunks or None

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

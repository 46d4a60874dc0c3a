"""Rounds: what all partitions of one kind have waiting, committed together.

Invariants: one task commits, so a partition is in one round at a time; being ended at any await is like a crash
there, and the next owner recovers from what is on disk and in the topics.

A round costs some milliseconds, whatever is in it. So the next one begins at once after a rest, but shortly after
another it waits for a moment, unless much is waiting already: under load rounds are few and large.
"""

import abc
import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from streams.kafka.chunk import Chunk
from streams.kafka.partition import Partition, Surroundings

Owned = TypeVar("Owned", bound=Partition)


class Rounds(abc.ABC, Generic[Owned]):
    """The rounds of the partitions of one kind.

    Args:
        around: what all partitions of the worker share.
    """

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.partitions: list[Owned] = []
        self._arrived = asyncio.Event()
        self._began_s = 0.0

    async def add(self, partition: Owned) -> None:
        """Begin to commit a partition, which has been recovered.

        Raises:
            WorkerError: the topics do not fit what has been read of them.
        """
        await partition.start(self._arrived)
        self.partitions.append(partition)
        self._arrived.set()  # windows may be due in it although nothing comes any more

    async def run(self) -> None:
        """Commit what comes, for ever."""
        while True:
            taken = await self._take()
            await self.commit(taken)

    @abc.abstractmethod
    async def commit(self, taken: Sequence[tuple[Owned, Sequence[Chunk]]]) -> None:
        """Commit a round."""

    async def _take(self) -> list[tuple[Owned, Sequence[Chunk]]]:
        """What each partition has, as much as makes one round."""
        while True:
            self._arrived.clear()
            soonest_s = min((s for s in map(_ready_in_s, self.partitions) if s is not None), default=None)
            if soonest_s is not None and soonest_s <= 0:
                break
            await wait_for(self._arrived, soonest_s)
        settings = self.around.settings
        pause_s = self._began_s + settings.round_interval_ms / 1000 - time.monotonic()
        if pause_s > 0 and self._waiting_bytes() < settings.max_batch_bytes:
            await asyncio.sleep(pause_s)
        self._began_s = time.monotonic()
        share = settings.max_batch_bytes // max(sum(bool(p.waiting_bytes) for p in self.partitions), 1)
        taken: list[tuple[Owned, Sequence[Chunk]]] = []
        for partition in self.partitions:
            chunks = await partition.take(share)
            if chunks is not None:
                taken.append((partition, chunks))
        self.around.consumer.thread.wake()  # there is room for more
        return taken

    def _waiting_bytes(self) -> int:
        return sum(partition.waiting_bytes for partition in self.partitions)


async def wait_for(event: asyncio.Event, at_most_s: float | None) -> None:
    """Wait until an event is set, but no longer than so many seconds; None = however long it takes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


def _ready_in_s(partition: Partition) -> float | None:
    return partition.ready_in_s()

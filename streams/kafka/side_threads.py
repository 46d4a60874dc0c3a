"""Threads beside the event loop: some that write to stores, and one that joins.

Invariant: when `run` returns, or is cancelled, nothing that it began is still going on: a store may be closed.

A synced write waits for the disk and lets go of the interpreter; side by side, the writes of a round take as long
as the slowest of them, and the event loop goes on meanwhile. Joining lets go of it as well for most of its time, in
compiled code and in NumPy, so that what learners do has another core.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

_DISK_THREADS = 4

Result = TypeVar("Result")


class SideThreads:
    """A few threads for one kind of work.

    Args:
        name: of the threads.
        count: of them.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, works: Sequence[Callable[[], Result]]) -> list[Result]:
        """Results of all, in order; the first failure only once every one has ended."""
        shares = [works[start :: self._count] for start in range(min(self._count, len(works)))]
        futures = [self._threads.submit(_run, share) for share in shares]
        try:
            parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            wait(futures)
        return [parts[at % self._count][at // self._count] for at in range(len(works))]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def disk_threads() -> SideThreads:
    """Threads for writing."""
    return SideThreads("store", _DISK_THREADS)


def _run(works: Sequence[Callable[[], Result]]) -> list[Result]:
    return [work() for work in works]

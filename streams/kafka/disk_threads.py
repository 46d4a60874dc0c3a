"""Writes to several stores at once.

Invariant: when `run` returns, or is cancelled, nothing that it began is still going on: a store may be closed.

A synced write waits for the disk and lets go of the interpreter; side by side, the writes of a round take as long
as the slowest of them, and the event loop goes on meanwhile.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

_THREADS = 4


class DiskThreads:
    """A few threads for writing."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    async def run(self, writes: Sequence[Callable[[], None]]) -> None:
        """Run all; the first failure once every one has ended."""
        shares = [writes[start::_THREADS] for start in range(min(_THREADS, len(writes)))]
        futures = [self._threads.submit(_run, share) for share in shares]
        try:
            await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            wait(futures)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def _run(writes: Sequence[Callable[[], None]]) -> None:
    for write in writes:
        write()

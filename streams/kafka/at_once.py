"""Several things at once that wait for the broker and for the disk: recoveries, and what a kind of rounds does.

Invariant: when `all_at_once` returns, raises or is cancelled, nothing that it began is still going on.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

_AT_ONCE = 8  # each holds connections to the broker, and what they have fetched


async def all_at_once(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all; the first failure ends the others."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def do(work: Coroutine[Any, Any, None]) -> None:
        try:
            async with places:
                await work
        finally:
            work.close()

    tasks = [asyncio.ensure_future(do(work)) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

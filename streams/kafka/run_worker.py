"""Runs a worker until it is told to stop."""

import asyncio
import contextlib
import signal

from streams.kafka.worker import Worker
from streams.kafka.worker_settings import WorkerSettings

_STOP_S = 20.0


def run_worker(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Raises:
        WorkerError, DamagedGraph, StoreError, KafkaError: it cannot start; the message says why.
    """
    with contextlib.suppress(ImportError):  # a tenth faster; not on every platform
        import uvloop

        uvloop.install()
    asyncio.run(_run(settings))


async def _run(settings: WorkerSettings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    worker = Worker(settings)
    await worker.start()
    await stopping.wait()
    await asyncio.wait_for(worker.stop(), _STOP_S)

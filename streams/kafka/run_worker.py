"""Runs a worker until it is told to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

import structlog

from streams.kafka.worker import Worker
from streams.kafka.worker_report import REPORT_S, WorkerReport, report_of
from streams.kafka.worker_settings import WorkerSettings

_STOP_S = 20.0

log = structlog.get_logger("freshet.kafka")


def run_worker(settings: WorkerSettings, *, tell: Callable[[WorkerReport], None] | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        settings: all of them.
        tell: called every half second with what the worker owns and how far it has come; None = nobody asks.

    Raises:
        WorkerError, DamagedGraph, StoreError, KafkaError: it cannot start; the message says why.
    """
    with contextlib.suppress(ImportError):  # a tenth faster; not on every platform
        import uvloop

        uvloop.install()
    asyncio.run(_run(settings, tell))


async def _run(settings: WorkerSettings, tell: Callable[[WorkerReport], None] | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    worker = Worker(settings)
    await worker.start()
    telling = asyncio.ensure_future(_report(worker, tell)) if tell else None
    await stopping.wait()
    if telling:
        telling.cancel()
    await asyncio.wait_for(worker.stop(), _STOP_S)


async def _report(worker: Worker, tell: Callable[[WorkerReport], None]) -> None:
    """Report until cancelled; what fails is said once, and whoever looks at the reports sees that they end."""
    try:
        while True:
            tell(report_of(worker.partitions, has_joined=bool(worker.app.consumer_generation_id)))
            await asyncio.sleep(REPORT_S)
    except Exception:
        log.exception("the worker goes on without reports")

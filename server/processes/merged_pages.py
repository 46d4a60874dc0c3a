"""The pages of the HTTP port for several processes: as of one server, and what each process is doing."""

import threading
from collections import deque
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from server.http import Page, Pages
from server.limits import HISTORY_SAMPLES
from server.processes.merged import Merged
from server.vitals import RATE_WINDOW, Sample, rates
from streams.embedded import LoopStatus

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_SCRAPE_WAIT_S = 1.0


class MergedHistory:
    """Rates of all processes together, sampled as of one server.

    Args:
        merged: the latest reports.
    """

    def __init__(self, merged: Merged) -> None:
        self._merged = merged
        self._samples: deque[Sample] = deque(maxlen=RATE_WINDOW)
        self._rates: deque[dict[str, float]] = deque(maxlen=HISTORY_SAMPLES)
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Take a sample into the history."""
        told = self._merged.sample()
        if told is None:
            return
        sample = Sample(**(told | {"loop": LoopStatus(**told["loop"])}))
        with self._lock:
            if self._samples:
                self._rates.append(rates(self._samples[0], sample))
            self._samples.append(sample)

    def rates(self) -> list[dict[str, float]]:
        """Rates of the last samples, oldest first."""
        with self._lock:
            return list(self._rates)


def make_merged_pages(
    merged: Merged, history: MergedHistory, *, version: str, poll: Callable[[float], None]
) -> Pages:
    """The pages by path, as `server.pages` has them.

    Args:
        merged: the latest reports.
        history: of them.
        version: release of the server.
        poll: has all processes report, and waits for so many seconds at most.
    """
    console = files("server").joinpath("console.html").read_bytes()
    registry = CollectorRegistry()
    registry.register(merged)

    def metrics() -> Page:
        poll(_SCRAPE_WAIT_S)
        return Page(200, CONTENT_TYPE_LATEST, generate_latest(registry))

    def readyz() -> Page:
        return Page(200, _TEXT, b"ready\n") if merged.ready() else Page(503, _TEXT, b"not ready\n")

    def status() -> Page:
        poll(_SCRAPE_WAIT_S)
        latest = history.rates()
        body: dict[str, Any] = {
            **(merged.sample() or {}),
            "version": version,
            "policy": merged.policy(),
            "shadows": merged.shadows(),
            "processes": merged.processes(),
            "rates": latest[-1] if latest else {},
        }
        return Page(200, _JSON, orjson.dumps(body))

    return {
        "/": lambda: Page(200, "text/html; charset=utf-8", console),
        "/status.json": status,
        "/history.json": lambda: Page(200, _JSON, orjson.dumps(history.rates())),
        "/metrics": metrics,
        "/healthz": lambda: Page(200, _TEXT, b"ok\n"),
        "/readyz": readyz,
    }

"""The pages of the HTTP port: metrics, health, and the console with its data."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from server.health import Health
from server.http import Page, Pages
from server.shadow.standings import Standing
from server.vitals import Vitals

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


def make_pages(
    *,
    registry: CollectorRegistry,
    health: Health,
    vitals: Vitals,
    version: str,
    policy_name: Callable[[], str],
    shadows: Callable[[], Sequence[Standing]],
) -> Pages:
    """The pages by path.

    `/healthz` is 200 while the process works; `/readyz` is 200 while scores are served.
    """
    console = files("server").joinpath("console.html").read_bytes()

    def healthz() -> Page:
        return Page(200, _TEXT, b"ok\n")

    def readyz() -> Page:
        return Page(200, _TEXT, b"ready\n") if health.ready else Page(503, _TEXT, b"not ready\n")

    def status() -> Page:
        sample = asdict(vitals.sample())
        history = vitals.history()
        body: dict[str, Any] = {
            **sample,
            "version": version,
            "policy": policy_name(),
            "shadows": [asdict(standing) for standing in shadows()],
            "rates": history[-1] if history else {},
        }
        return Page(200, _JSON, orjson.dumps(body))

    return {
        "/": lambda: Page(200, "text/html; charset=utf-8", console),
        "/status.json": status,
        "/history.json": lambda: Page(200, _JSON, orjson.dumps(vitals.history())),
        "/metrics": lambda: Page(200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        "/healthz": healthz,
        "/readyz": readyz,
    }

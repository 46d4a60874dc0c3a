"""The page of a server of several processes."""

import json
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from server.processes.supervisor import Supervisor
from tests.server.processes.servers import PATIENCE_S


def scraped(server: Supervisor) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All series of the page."""
    with urllib.request.urlopen(f"http://{server.addresses.http}/metrics", timeout=PATIENCE_S) as page:
        text = page.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: dict[Any, float], name: str, **labels: str) -> float:
    """A series, or the sum of those that have these labels."""
    return sum(
        value for (sample, has), value in series.items() if sample == name and labels.items() <= dict(has).items()
    )


def standings(server: Supervisor) -> list[dict[str, Any]]:
    """What the console is told of shadow policies."""
    with urllib.request.urlopen(f"http://{server.addresses.http}/status.json", timeout=PATIENCE_S) as page:
        told: list[dict[str, Any]] = json.load(page)["shadows"]
    return told

"""A worker's metrics and health over HTTP, from its last report.

Invariant: a report that is old says so: a worker whose event loop hangs is not healthy, whatever it said last.
"""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version as installed_version

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from server.http import Page, Pages
from streams.kafka.worker_report import JoinerReport, LearnerReport, WorkerReport

SILENT_S = 10.0
_TEXT = "text/plain; charset=utf-8"

_OF_JOINERS: tuple[tuple[str, str, Callable[[JoinerReport], float]], ...] = (
    ("freshet_pending_impressions", "Impressions waiting for clicks.", lambda one: one.pending_rows),
    ("freshet_waiting_clicks", "Clicks waiting for their impression.", lambda one: one.waiting_clicks),
    ("freshet_impressions_in_flight", "Impressions whose window has not closed.", lambda one: one.rows_in_flight),
)
_OF_LEARNERS: tuple[tuple[str, str, Callable[[LearnerReport], float]], ...] = (
    ("freshet_facts_applied", "Facts added to the sums since the beginning.", lambda one: one.facts_applied),
    ("freshet_facts_unknown", "Facts of items that the graph does not have.", lambda one: one.facts_unknown),
    ("freshet_ledger_damaged_records", "Ledger records that could not be read.", lambda one: one.damaged_records),
)


class WorkerReports(Collector):
    """Holds the last report, and shows it when scraped.

    Args:
        name: of the worker.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: WorkerReport | None = None

    def tell(self, report: WorkerReport) -> None:
        """Take a report; from any thread."""
        self._last = report

    @property
    def silent_s(self) -> float | None:
        """Age of the last report, seconds; None before the first."""
        return None if self._last is None else time.monotonic() - self._last.at_s

    @property
    def is_healthy(self) -> bool:
        """Whether it is starting, or has reported lately."""
        silent_s = self.silent_s
        return silent_s is None or silent_s < SILENT_S

    @property
    def is_ready(self) -> bool:
        """Whether all that it owns has been recovered, as it has said lately."""
        return self._last is not None and self.is_healthy and self._last.is_ready

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families of the last report."""
        build = {"version": installed_version("freshet"), "worker": self._name}
        yield InfoMetricFamily("freshet_build", "What runs.", value=build)
        yield GaugeMetricFamily("freshet_ready", "1 once all owned partitions are recovered.", value=self.is_ready)
        report = self._last
        if report is None:
            return
        age_s = time.monotonic() - report.at_s
        yield GaugeMetricFamily("freshet_worker_report_age_seconds", "Time since the worker reported.", value=age_s)
        yield from _partitions(report)
        yield from _readings(report)
        yield from _joined(report)
        yield from _learned(report)


def make_worker_pages(reports: WorkerReports) -> Pages:
    """The pages by path.

    `/healthz` is 200 while the worker works or starts; `/readyz` is 200 while all it owns has been recovered.
    """
    registry = CollectorRegistry(auto_describe=True)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(reports)

    def told(is_so: bool, what: str) -> Page:
        return Page(200, _TEXT, f"{what}\n".encode()) if is_so else Page(503, _TEXT, f"not {what}\n".encode())

    return {
        "/metrics": lambda: Page(200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        "/healthz": lambda: told(reports.is_healthy, "ok"),
        "/readyz": lambda: told(reports.is_ready, "ready"),
    }


def _partitions(report: WorkerReport) -> Iterator[Metric]:
    owned = GaugeMetricFamily("freshet_worker_partitions", "Partitions owned.", labels=["role", "state"])
    for role, ones in (("joiner", report.joiners), ("learner", report.learners)):
        started = sum(one.is_started for one in ones)
        owned.add_metric([role, "ready"], started)
        owned.add_metric([role, "recovering"], len(ones) - started)
    yield owned


def _readings(report: WorkerReport) -> Iterator[Metric]:
    labels = ["topic", "partition"]
    lag = GaugeMetricFamily("freshet_worker_lag_records", "Records that are not on disk yet.", labels=labels)
    late = GaugeMetricFamily(
        "freshet_worker_lag_seconds",
        "Time since the newest record taken in was written, while there are others behind it.",
        labels=labels,
    )
    for (topic, partition), reading in sorted(report.readings.items()):
        if reading.lag is None:
            continue
        place = [topic, str(partition)]
        lag.add_metric(place, reading.lag)
        if reading.ingested_ms:
            late.add_metric(place, max(report.now_ms - reading.ingested_ms, 0) / 1000 if reading.lag else 0.0)
    yield lag
    yield late


def _joined(report: WorkerReport) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "freshet_feedback_outcomes",
        "What became of feedback since the store was made.",
        labels=["outcome", "partition"],
    )
    letters = CounterMetricFamily(
        "freshet_dead_letters", "Records and events refused since the store was made.", labels=["partition"]
    )
    for one in report.joiners:
        for outcome, count in one.counts.items():
            outcomes.add_metric([outcome, str(one.number)], count)
        letters.add_metric([str(one.number)], one.dead_letters)
    yield outcomes
    yield letters
    for name, documentation, value in _OF_JOINERS:
        yield GaugeMetricFamily(name, documentation, value=sum(map(value, report.joiners)))


def _learned(report: WorkerReport) -> Iterator[Metric]:
    for name, documentation, value in _OF_LEARNERS:
        family = CounterMetricFamily(name, documentation, labels=["partition"])
        for one in report.learners:
            family.add_metric([str(one.number)], value(one))
        yield family
    unpublished = GaugeMetricFamily(
        "freshet_worker_unpublished_records",
        "Ledger records whose facts are on disk, in rows that are not published.",
        labels=["partition"],
    )
    graphs = GaugeMetricFamily("freshet_worker_graph_partitions", "Partitions by graph.", labels=["version"])
    versions = [one.graph_version for one in report.learners]
    for version in sorted(set(versions)):
        graphs.add_metric([version], versions.count(version))
    for one in report.learners:
        unpublished.add_metric([str(one.number)], one.unpublished_records)
    yield unpublished
    yield graphs

"""One page for several processes: what they have counted added up, what they know put together.

Invariants: a counter never goes back when a process ends, as the last that it told stays counted; what it counted
in the last second before it was killed may be missing. What only the writer knows is taken from the writer, from
the last that it said while it is away.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.processes.report import Series, metric_of

WRITER = "writer"
Report = dict[str, Any]

# The store counts these for all its life, so that they are not to be added to what a writer before has told.
_OF_THE_STORE = frozenset({"freshet_feedback_outcomes", "freshet_saturated_sums"})
_ADDED_GAUGES = frozenset({"freshet_feedback_queue_events", "freshet_requests_in_flight", "process_open_fds"})
_SMALLEST_OF_READERS = frozenset({"freshet_ready", "freshet_served_position"})
# Those of single processes say nothing when they are put together; shared memory would be counted many times.
_LEFT_OUT = frozenset(
    {
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_max_fds",
    }
)
_SUMS_OF_SAMPLE = ("slates", "slate_items", "explored_items", "events")

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Merged(Collector):
    """The latest reports of all processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, Report] = {}
        self._alive: set[str] = set()
        self._gone: dict[_Key, float] = {}
        self._gone_sums = dict.fromkeys(_SUMS_OF_SAMPLE, 0)
        self._restarts: dict[str, int] = {}
        self._memory: dict[str, int] = {}

    def started(self, process: str) -> None:
        """A process runs that has told nothing yet."""
        with self._lock:
            self._alive.add(process)
            self._restarts.setdefault(process, 0)

    def told(self, process: str, report: Report, *, memory_bytes: int) -> None:
        """Take a report over.

        Args:
            process: name of it.
            report: as the process makes it.
            memory_bytes: its share of the memory: shared pages divided among those who map them.
        """
        with self._lock:
            if process in self._alive and "families" in report:
                self._latest[process] = report
                self._memory[process] = memory_bytes

    def ended(self, process: str) -> None:
        """A process has ended, and will be started again."""
        with self._lock:
            self._alive.discard(process)
            self._restarts[process] = self._restarts.get(process, 0) + 1
            self._memory.pop(process, None)
            report = self._latest.get(process)
            if report is None:
                return
            for name, _, kind, series in report["families"]:
                if kind in ("counter", "histogram") and name not in _OF_THE_STORE:
                    for key, value in _keyed(series):
                        self._gone[key] = self._gone.get(key, 0.0) + value
            for field in _SUMS_OF_SAMPLE if report["sample"] else ():
                self._gone_sums[field] += report["sample"][field]
            if process == WRITER:  # what it knew stays the last that is known
                report["families"] = [
                    family for family in report["families"] if family[0] in _OF_THE_STORE or family[2] == "gauge"
                ]
                report["sample"] = (report["sample"] or {}) | dict.fromkeys(_SUMS_OF_SAMPLE, 0)
            else:
                del self._latest[process]

    def ready(self) -> bool:
        """Whether a process serves scores."""
        with self._lock:
            return any(self._latest[process].get("ready") for process in self._alive & self._latest.keys())

    def policy(self) -> str:
        """Name of the default policy, as the writer has it."""
        with self._lock:
            return str(self._latest.get(WRITER, {}).get("policy", ""))

    def shadows(self) -> list[Any]:
        """How the shadow policies stand, as the writer has told last."""
        with self._lock:
            return list(self._latest.get(WRITER, {}).get("shadows", []))

    def sample(self) -> dict[str, Any] | None:
        """As `server.vitals.Sample` of one server; None before a process has told of one.

        Latencies are those of the slowest process.
        """
        with self._lock:
            of = {name: report["sample"] for name, report in self._latest.items() if report["sample"]}
            gone = dict(self._gone_sums)
        serving = [sample for name, sample in of.items() if name != WRITER]
        if not of:
            return None
        whole: dict[str, Any] = dict(of.get(WRITER) or serving[0])
        for field in _SUMS_OF_SAMPLE:
            whole[field] = gone[field] + sum(sample[field] for sample in of.values())
        if serving:
            whole["ready"] = all(sample["ready"] for sample in serving)
            whole["position"] = min(sample["position"] for sample in serving)
            whole["staleness_s"] = max(sample["staleness_s"] for sample in serving)
            whole["latency_s"] = [max(sample["latency_s"][at] for sample in serving) for at in (0, 1)]
            whole["graph_version"] = serving[0]["graph_version"]
        whole["loop"] = dict(whole["loop"])
        whole["loop"]["queued_events"] = sum(sample["loop"]["queued_events"] for sample in of.values())
        return whole

    def processes(self) -> list[dict[str, Any]]:
        """Each process, for the console."""
        with self._lock:
            return [
                {
                    "process": name,
                    "up": name in self._alive,
                    "restarts": count,
                    "pss_bytes": self._memory.get(name, 0),
                }
                for name, count in sorted(self._restarts.items())
            ]

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All families of all processes, and those of the processes themselves."""
        with self._lock:
            # The writer first: of what is neither added nor compared, the first that is told counts.
            names = sorted(self._latest, key=lambda name: (name != WRITER, name))
            latest = [(name, self._latest[name]["families"]) for name in names]
            gone = dict(self._gone)
        yield from _merged(latest, gone)
        yield from self._of_processes()

    def _of_processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("freshet_process_up", "1 while a process of the server runs.", labels=["process"])
        restarts = CounterMetricFamily(
            "freshet_process_restarts", "Times that a process has been started again.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "freshet_process_pss_bytes", "Memory, shared pages divided among the processes.", labels=["process"]
        )
        calls = CounterMetricFamily(
            "freshet_process_requests", "Calls answered since the process began.", labels=["process"]
        )
        with self._lock:
            for name, report in self._latest.items():
                calls.add_metric([name], _calls(report) if name in self._alive else 0.0)
        for one in self.processes():
            up.add_metric([one["process"]], one["up"])
            restarts.add_metric([one["process"]], one["restarts"])
            memory.add_metric([one["process"]], one["pss_bytes"])
        yield from (up, restarts, memory, calls)


def _calls(report: Report) -> float:
    counted = (series for name, _, _, series in report["families"] if name == "freshet_requests")
    total: float = sum(value for series in counted for _, _, value in series)
    return total


def _merged(latest: list[tuple[str, list[Any]]], gone: Mapping[_Key, float]) -> Iterator[Metric]:
    """Families of several processes, by name."""
    found: dict[str, tuple[str, str]] = {}
    values: dict[str, dict[_Key, float]] = {}
    for process, families in latest:
        for name, documentation, kind, series in families:
            if name in _LEFT_OUT or (name in _SMALLEST_OF_READERS and process == WRITER and len(latest) > 1):
                continue
            found.setdefault(name, (documentation, kind))
            held = values.setdefault(name, {})
            if kind == "info" and held:
                continue
            for key, value in _keyed(series):
                held[key] = _together(name, kind, held.get(key), value)
    for name, (documentation, kind) in found.items():
        summed: list[Series] = []
        for (sample, labels), value in values[name].items():
            before = 0.0 if name in _OF_THE_STORE else gone.get((sample, labels), 0.0)
            summed.append((sample, dict(labels), value + before))
        yield metric_of(name, documentation, kind, summed)


def _together(name: str, kind: str, held: float | None, value: float) -> float:
    if held is None:
        return value
    if kind in ("counter", "histogram") or name in _ADDED_GAUGES:
        return held + value
    return min(held, value) if name in _SMALLEST_OF_READERS else max(held, value)


def _keyed(series: list[Any]) -> Iterator[tuple[_Key, float]]:
    for sample, labels, value in series:
        yield (sample, tuple(sorted(labels.items()))), value

"""What the server counts, in Prometheus' names: `freshet_`, base units, `_total` on counters.

Invariant: every label takes few values; what a caller sends (`surface`) is capped at `MAX_SURFACES`.
"""

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from server.limits import MAX_SURFACES

_DURATION_BUCKETS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DELAY_BUCKETS_S = (1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_PROPENSITY_BUCKETS = (1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 0.99, 1.0)
_RECENT_CALLS = 2_048


class Metrics:
    """The counters of one server, in a registry of its own.

    Attributes:
        registry: what `/metrics` shows.
        refused: calls refused, by reason.
        unknown_items: candidates that the graph did not know.
        graph_loads: artifacts found in the watched directory, by result.
        delay: seconds from feedback to served parameters.
    """

    def __init__(self) -> None:
        # A second series a counter, with its birth, that nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        registry = self.registry
        self._requests = Counter("freshet_requests_total", "Calls answered.", ["rpc", "code"], registry=registry)
        self._duration = Histogram(
            "freshet_request_duration_seconds",
            "Time from the start of a call's handler to its answer.",
            ["rpc"],
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        self._streams = Counter(
            "freshet_streams_total", "Streams that have ended.", ["rpc", "code"], registry=registry
        )
        self.refused = Counter("freshet_requests_refused_total", "Calls refused.", ["reason"], registry=registry)
        slate = ["mode", "surface"]
        self._slate_items = Counter("freshet_slate_items_total", "Items in slates.", slate, registry=registry)
        self._explored = Counter(
            "freshet_slate_items_explored_total",
            "Items put in a slot by an exploration draw, or that exploit would not have shown.",
            slate,
            registry=registry,
        )
        self.unknown_items = Counter(
            "freshet_unknown_items_total", "Candidates that the graph does not know.", registry=registry
        )
        self.graph_loads = Counter(
            "freshet_graph_loads_total", "Artifacts found in graph_dir, by result.", ["result"], registry=registry
        )
        for result in ("loaded", "refused"):
            self.graph_loads.labels(result=result)
        self._feedback = Counter(
            "freshet_feedback_events_total", "Elements of feedback calls.", ["kind", "result"], registry=registry
        )
        self.delay = Histogram(
            "freshet_feedback_served_delay_seconds",
            "Time from the arrival of feedback to replies that include it.",
            buckets=_DELAY_BUCKETS_S,
            registry=registry,
        )
        self.propensity = RatioHistogram(
            "freshet_slate_propensity_ratio", "Propensities of returned items.", _PROPENSITY_BUCKETS
        )
        self.registry.register(self.propensity)
        self._surfaces: set[str] = set()
        self._totals_lock = threading.Lock()
        self._served = [0, 0, 0]
        # Looking a series up by its labels costs more than counting.
        self._call_series: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._slate_series: dict[tuple[str, str], tuple[Counter, Counter]] = {}
        self._fed = np.zeros(2, np.int64)
        self._recent: deque[float] = deque(maxlen=_RECENT_CALLS)

    def answered(self, rpc: str, code: str, seconds: float) -> None:
        """Count a call."""
        series = self._call_series.get((rpc, code))
        if series is None:
            series = self._requests.labels(rpc=rpc, code=code), self._duration.labels(rpc=rpc)
            self._call_series[rpc, code] = series
        series[0].inc()
        series[1].observe(seconds)
        if rpc in ("Score", "Recommend"):
            self._recent.append(seconds)

    def stream_ended(self, rpc: str, code: str) -> None:
        """Count a stream that has ended; its messages are counted as calls."""
        self._streams.labels(rpc=rpc, code=code).inc()

    def slate(self, *, mode: str, surface: str, explored: int, propensity: npt.NDArray[np.float64]) -> None:
        """Count a returned slate."""
        counts, total = self.propensity.counted(propensity), float(propensity.sum())
        items = len(propensity)
        self.counted_slate(mode=mode, surface=surface, items=items, explored=explored, counts=counts, total=total)

    def counted_slate(
        self,
        *,
        mode: str,
        surface: str,
        items: int,
        explored: int,
        counts: npt.NDArray[np.int64],
        total: float,
        slates: int = 1,
    ) -> None:
        """Count returned slates whose propensities have been counted already.

        Args:
            mode: name of the mode.
            surface: of the request.
            items: in the slates.
            explored: of the items.
            counts: of propensities, as `RatioHistogram.counted`.
            total: sum of propensities.
            slates: how many.
        """
        surface = self._capped(surface)
        series = self._slate_series.get((mode, surface))
        if series is None:
            labels = {"mode": mode, "surface": surface}
            series = self._slate_items.labels(**labels), self._explored.labels(**labels)
            self._slate_series[mode, surface] = series
        series[0].inc(items)
        if explored:
            series[1].inc(explored)
        self.propensity.add(counts, total)
        with self._totals_lock:
            served = self._served
            served[0] += slates
            served[1] += items
            served[2] += explored

    def feedback(self, kind: str, *, accepted: int, refused: int) -> None:
        """Count the elements of a feedback call; kind is "impression" or "click"."""
        self._feedback.labels(kind=kind, result="accepted").inc(accepted)
        self._feedback.labels(kind=kind, result="refused").inc(refused)
        with self._totals_lock:
            self._fed += (accepted, refused)

    def served(self) -> tuple[int, int, int]:
        """Slates returned so far, the items in them, and how many of these were explored."""
        with self._totals_lock:
            slates, items, explored = self._served
        return slates, items, explored

    def feedback_events(self) -> tuple[int, int]:
        """Elements of feedback calls accepted and refused so far."""
        with self._totals_lock:
            return int(self._fed[0]), int(self._fed[1])

    def recent_latency_s(self) -> tuple[float, float]:
        """Median and 99th percentile of the latest Score and Recommend calls, in seconds; 0 before the first."""
        recent = list(self._recent)
        if not recent:
            return 0.0, 0.0
        median, high = np.percentile(recent, (50, 99))
        return float(median), float(high)

    def _capped(self, surface: str) -> str:
        if not surface:
            return "none"
        if surface not in self._surfaces:
            with self._totals_lock:
                if len(self._surfaces) >= MAX_SURFACES:
                    return "other"
                self._surfaces.add(surface)
        return surface


class RatioHistogram(Collector):
    """A histogram that takes a whole array at once."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self.bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def counts(self) -> npt.NDArray[np.int64]:
        """Nothing counted yet: int64, one a bucket and one for what is above all."""
        return np.zeros(len(self._counts), np.int64)

    def counted(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """How many values are in each bucket, its upper bound included."""
        return np.bincount(np.searchsorted(self.bounds, values), minlength=len(self._counts))

    def add(self, counts: npt.NDArray[np.int64], total: float) -> None:
        """Take over values that have been counted, and their sum."""
        with self._lock:
            self._counts += counts
            self._sum += total

    def collect(self) -> Sequence[HistogramMetricFamily]:
        """The family, with cumulative buckets."""
        with self._lock:
            cumulative, total = np.cumsum(self._counts).tolist(), self._sum
        bounds = [str(float(bound)) for bound in self.bounds] + ["+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], list(zip(bounds, cumulative, strict=True)), sum_value=total)
        return [family]

"""How the server is doing, sampled once a second: what the console, the metrics and `GetStatus` show.

Invariants: staleness is the time since the served position was last seen to be the end of the ledger; the history
is bounded by `HISTORY_SAMPLES`; sampling never takes a lock that a call holds for long.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.limits import HISTORY_SAMPLES, SAMPLE_INTERVAL_S
from server.loops import Loop
from server.metrics import Metrics
from server.snapshot import Snapshot
from streams.embedded import LoopStatus

RATE_WINDOW = 10  # samples over which rates are averaged


@dataclass(frozen=True)
class Sample:
    """The state at one moment.

    Attributes:
        at_s: when, in seconds of the monotonic clock.
        ready: True once a graph is loaded and its parameters are served.
        graph_version, clusters, items, edges: of the graph served; empty and 0 before one is.
        position: ledger position served.
        staleness_s: seconds since the served parameters were known to be current.
        loop: what the loop says.
        impressions, rewards: learned so far, by the items served.
        slates, slate_items, explored_items: returned so far.
        events: elements of feedback accepted so far.
        latency_s: median and 99th percentile of the latest calls.
    """

    at_s: float
    ready: bool
    graph_version: str
    clusters: int
    items: int
    edges: int
    position: int
    staleness_s: float
    loop: LoopStatus
    impressions: int
    rewards: float
    slates: int
    slate_items: int
    explored_items: int
    events: int
    latency_s: tuple[float, float]


class Vitals:
    """Samples, and keeps the latest.

    Args:
        loop: learns.
        snapshot: the parameters served.
        metrics: what calls counted.
        on_sample: called with each sample of the second hand, such as to set the health.
    """

    def __init__(
        self, *, loop: Loop, snapshot: Snapshot, metrics: Metrics, on_sample: Callable[[Sample], None]
    ) -> None:
        self._loop = loop
        self._snapshot = snapshot
        self._metrics = metrics
        self._on_sample = on_sample
        self._current_at_s = time.monotonic()
        self._samples: deque[Sample] = deque(maxlen=RATE_WINDOW)
        self._history: deque[dict[str, float]] = deque(maxlen=HISTORY_SAMPLES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-vitals", daemon=True)

    def start(self) -> None:
        """Take the first sample, and one a second from then on."""
        self.tick()
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def sample(self) -> Sample:
        """The state now."""
        now_s = time.monotonic()
        # The end of the ledger first: the position may pass it meanwhile, never the other way round.
        loop = self._loop.status()
        parameters = self._snapshot.current
        graph = parameters.graph if parameters else None
        position = parameters.position if parameters else 0
        if parameters and position >= loop.ledger_end and not loop.failed:
            self._current_at_s = now_s
        impressions, rewards = parameters.totals if parameters else (0, 0.0)
        slates, slate_items, explored_items = self._metrics.served()
        return Sample(
            at_s=now_s,
            ready=parameters is not None,
            graph_version=graph.version if graph else "",
            clusters=graph.n_clusters if graph else 0,
            items=graph.n_live_items if graph else 0,
            edges=graph.n_live_edges if graph else 0,
            position=position,
            staleness_s=now_s - self._current_at_s,
            loop=loop,
            impressions=impressions,
            rewards=rewards,
            slates=slates,
            slate_items=slate_items,
            explored_items=explored_items,
            events=self._metrics.feedback_events()[0],
            latency_s=self._metrics.recent_latency_s(),
        )

    def history(self) -> list[dict[str, float]]:
        """Rates of the last samples, oldest first."""
        return list(self._history)

    def tick(self) -> None:
        """Take a sample into the history."""
        sample = self.sample()
        if self._samples:  # the first has nothing to be compared with
            self._history.append(rates(self._samples[0], sample))
        self._samples.append(sample)
        self._on_sample(sample)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self.tick()


def rates(earlier: Sample, later: Sample) -> dict[str, float]:
    """What happened between two samples, as rates and shares; a share of nothing is 0.

    Learned totals go down when a graph drops items; then the reward rate is 0 for that window.
    """
    seconds = max(later.at_s - earlier.at_s, 1e-9)
    return {
        "reward_rate": _share(later.rewards - earlier.rewards, later.impressions - earlier.impressions),
        "explored_share": _share(
            later.explored_items - earlier.explored_items, later.slate_items - earlier.slate_items
        ),
        "slates_per_s": (later.slates - earlier.slates) / seconds,
        "events_per_s": (later.events - earlier.events) / seconds,
        "latency_p50_ms": later.latency_s[0] * 1e3,
        "latency_p99_ms": later.latency_s[1] * 1e3,
        "staleness_s": later.staleness_s,
    }


def _share(part: float, whole: float) -> float:
    return max(part, 0.0) / whole if whole > 0 else 0.0

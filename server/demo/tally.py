"""What simulated users have seen, added up: every number that is shown comes from here.

Invariants: rewards are clicks that users made, none is smoothed or made up; each number is a mean over the slates
of its time range and nothing else. Memory is a few floats a batch of slates.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_ERROR_EXAMPLES = 5
_RECENT_CALLS = 4_096


@dataclass(frozen=True)
class Batch:
    """Sums over slates that were shown together.

    Attributes:
        at_s: when, seconds since the start.
        slates: how many.
        clicks: that users made on them.
        expected, uniform, best: expected clicks of these slates, of uniform ones, of the best possible.
        slots: items shown.
        explored: of these, items drawn at random or with an edge that was never tried.
        position: highest ledger position of the parameters that the replies state.
    """

    at_s: float
    slates: int
    clicks: int
    expected: float
    uniform: float
    best: float
    slots: int
    explored: int
    position: int


@dataclass(frozen=True)
class Part:
    """Means over the slates of a time range; rewards are clicks a slate."""

    start_s: float
    end_s: float
    slates: int
    reward: float
    expected: float
    uniform: float
    best: float
    explored_share: float

    @property
    def regret_share(self) -> float:
        """Share of the best possible reward that was missed in expectation."""
        return 1.0 - self.expected / self.best if self.best else 0.0


@dataclass
class Counts:
    """Calls and events so far."""

    calls: int = 0
    slates: int = 0
    impressions: int = 0
    clicks: int = 0
    errors: int = 0
    position: int = 0
    examples: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> int:
        """Shown items and clicks that the server has made durable."""
        return self.impressions + self.clicks


class Tally:
    """Adds up what all user threads see."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._latency_s: list[float] = []
        self._fresh_s: list[float] = []
        self.counts = Counts()
        self.policy = ""
        self.graph_version = ""

    def slates(self, batch: Batch, latencies_s: Sequence[float]) -> None:
        """Count slates that were shown, and how long each took to come."""
        with self._lock:
            self._batches.append(batch)
            self._latency_s.extend(latencies_s)
            self.counts.calls += len(latencies_s)
            self.counts.slates += batch.slates
            self.counts.position = max(self.counts.position, batch.position)

    def feedback(self, *, impressions: int = 0, clicks: int = 0) -> None:
        """Count a feedback call and the shown items or clicks that it made durable."""
        with self._lock:
            self.counts.calls += 1
            self.counts.impressions += impressions
            self.counts.clicks += clicks

    def fresh(self, seconds: float) -> None:
        """Count the time from sending feedback to the arrival of a reply computed from it."""
        with self._lock:
            self._fresh_s.append(seconds)

    def error(self, message: str) -> None:
        """Count a call that failed, or an element that was refused."""
        with self._lock:
            self.counts.errors += 1
            if message in self.counts.examples or len(self.counts.examples) < MAX_ERROR_EXAMPLES:
                self.counts.examples[message] += 1

    def part(self, start_s: float, end_s: float) -> Part | None:
        """Means over start_s <= time < end_s, None if nothing was shown then."""
        with self._lock:
            chosen = [batch for batch in self._batches if start_s <= batch.at_s < end_s]
        return part_of(chosen, start_s, end_s)

    def parts(self, seconds: float, count: int) -> list[Part | None]:
        """Means over `count` equal parts of the time from 0 to `seconds`."""
        with self._lock:
            batches = list(self._batches)
        chosen: list[list[Batch]] = [[] for _ in range(count)]
        for batch in batches:
            chosen[min(int(batch.at_s / seconds * count), count - 1)].append(batch)
        width = seconds / count
        return [part_of(some, i * width, (i + 1) * width) for i, some in enumerate(chosen)]

    def latency_ms(self, *, recent: bool = False) -> tuple[float, float]:
        """Median and 99th percentile of Recommend calls as their caller sees them, in milliseconds."""
        with self._lock:
            return _percentiles_ms(self._latency_s[-_RECENT_CALLS:] if recent else self._latency_s)

    def freshness_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of the time from sending feedback to a reply computed from it."""
        with self._lock:
            return _percentiles_ms(self._fresh_s)


def part_of(batches: Sequence[Batch], start_s: float, end_s: float) -> Part | None:
    """Means over batches."""
    slates = sum(batch.slates for batch in batches)
    if not slates:
        return None
    return Part(
        start_s=start_s,
        end_s=end_s,
        slates=slates,
        reward=sum(batch.clicks for batch in batches) / slates,
        expected=sum(batch.expected for batch in batches) / slates,
        uniform=sum(batch.uniform for batch in batches) / slates,
        best=sum(batch.best for batch in batches) / slates,
        explored_share=sum(batch.explored for batch in batches) / max(1, sum(batch.slots for batch in batches)),
    )


def _percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return 0.0, 0.0
    median, high = np.percentile(np.array(seconds) * 1e3, (50, 99))
    return float(median), float(high)

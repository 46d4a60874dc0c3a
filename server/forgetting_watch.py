"""Whether a half-life holds enough to learn from: a gauge, and a warning at the start.

Invariant: changes are handed on as they are; only those of all rows are looked at, of which there is one at the
start and one for each 32nd of a half-life.
"""

from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from bandits.forgetting import FEW_IMPRESSIONS, impressions_held
from streams.change import Change


class ForgettingWatch(Collector):
    """Stands between the loop and the snapshot.

    Args:
        on_change: what changes are handed on to.
        log: where it is told that a half-life is short.
    """

    def __init__(self, on_change: Callable[[Change], None], *, log: FilteringBoundLogger) -> None:
        self._on_change = on_change
        self._log = log
        self._is_first = True
        self._held = 0.0

    def apply(self, change: Change) -> None:
        """Look at a change and hand it on."""
        if change.time_rows is not None and change.extra_rows is not None and self._is_whole(change):
            degrees = np.diff(change.graph.item_ptr)[change.items]
            self._held = impressions_held(change.edge_rows, change.extra_rows, change.time_rows, degrees)
            if self._is_first and 0 < self._held < FEW_IMPRESSIONS:
                self._log.warning(
                    "half_life_short",
                    impressions_per_edge=round(self._held, 1),
                    expected=FEW_IMPRESSIONS,
                    setting="join.half_life_ms",
                )
        self._is_first = False  # a store that was empty at the start has not had the time
        self._on_change(change)

    def _is_whole(self, change: Change) -> bool:
        return len(change.items) == change.graph.n_items

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauge, once something is forgotten."""
        if self._held:
            yield GaugeMetricFamily(
                "freshet_half_life_impressions",
                "Impressions of an edge in a half-life, the mean.",
                value=self._held,
            )

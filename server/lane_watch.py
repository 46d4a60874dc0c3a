"""Looks at all items now and then: how many are in the exploration lane, and which clusters have had their share.

Invariants: looking takes one part in twenty of a processor at most; what was found holds until the next look, so a
cluster may go over its cap by what is explored in between.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bandits.graph import Graph, Int32
from bandits.life_cycle import SPENT, STATES, Bool, LifeCycle, cluster_impressions, item_states
from server.snapshot import Parameters

_REST = 20


class ClosedClusters(Protocol):
    """Which clusters have had their exploration."""

    def open_among(self, graph: Graph, clusters: Int32) -> Bool | None:
        """Which of some clusters are open, bool of their shape; None where all of the graph are."""


class LaneWatch(Collector):
    """Looks, and knows what it has found.

    Args:
        rules: when items leave the lane.
        clock_ms: Unix milliseconds.
        tell: told which clusters are closed, bool of shape (n_clusters,), after each look under a cap of theirs.
    """

    def __init__(
        self,
        rules: LifeCycle,
        *,
        clock_ms: Callable[[], int],
        tell: Callable[[Graph, Bool], None] | None = None,
    ) -> None:
        self._rules = rules
        self._clock_ms = clock_ms
        self._tell = tell
        self._closed: Bool | None = None
        self._counts = np.zeros(len(STATES), np.int64)
        self._next_look_s = 0.0

    def open_among(self, graph: Graph, clusters: Int32) -> Bool | None:
        """See `ClosedClusters`; as of the latest look."""
        closed = self._closed
        if closed is None or len(closed) != graph.n_clusters:
            return None
        return np.asarray(~closed[clusters])

    def look(self, parameters: Parameters) -> None:
        """Count items by state and the impressions of clusters; O(edges), so it rests in between."""
        began_s = time.monotonic()
        if began_s < self._next_look_s:
            return
        graph, now_ms = parameters.graph, self._clock_ms()
        states = parameters.read(
            lambda sums, _: item_states(self._rules, sums.item, graph.published_ms, now_ms=now_ms)
        )
        live = states if graph.edits is None else states[graph.edits.live]
        self._counts = np.bincount(live, minlength=len(STATES))
        cap = self._rules.max_cluster_impressions
        if cap is not None:
            explored = parameters.read(lambda sums, _: cluster_impressions(graph, sums, states))
            self._closed = closed = np.asarray(explored >= cap)
            if self._tell:
                self._tell(graph, closed)
        self._next_look_s = time.monotonic() + _REST * (time.monotonic() - began_s)

    def collect(self) -> Iterator[Metric]:
        """Items by state, and closed clusters."""
        items = GaugeMetricFamily("freshet_exploration_items", "Items by state in the lane.", labels=["state"])
        for name, count in zip(STATES[:SPENT], self._counts.tolist(), strict=False):
            items.add_metric([name], count)
        yield items
        closed = self._closed
        count = 0 if closed is None else int(np.count_nonzero(closed))
        yield GaugeMetricFamily(
            "freshet_exploration_closed_clusters", "Clusters that have had their exploration.", value=count
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

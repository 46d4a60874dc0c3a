"""What the server knows at the moment it is scraped: loop, snapshot, graph, places, build.

Names and help texts stand in one table, so that they can be read, and checked against Prometheus' rules, at a look.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from server.gate import Gate
from server.vitals import Sample

_GAUGES: tuple[tuple[str, str, Callable[[Sample], float]], ...] = (
    ("freshet_ready", "1 once a graph is served.", lambda s: s.ready),
    ("freshet_feedback_queue_events", "Events waiting for the writer.", lambda s: s.loop.queued_events),
    ("freshet_pending_impressions", "Impressions waiting for clicks.", lambda s: s.loop.pending_impressions),
    ("freshet_impressions_in_flight", "Impressions whose window has not closed.", lambda s: s.loop.in_flight),
    ("freshet_waiting_clicks", "Clicks waiting for their impression.", lambda s: s.loop.waiting_clicks),
    ("freshet_ledger_end_position", "End of the ledger.", lambda s: s.loop.ledger_end),
    ("freshet_applied_position", "Ledger position of the learned state.", lambda s: s.loop.applied_position),
    ("freshet_served_position", "Ledger position of the served parameters.", lambda s: s.position),
    ("freshet_staleness_seconds", "Time since the served parameters were current.", lambda s: s.staleness_s),
    ("freshet_learning_frozen", "1 while learning is frozen.", lambda s: s.loop.frozen),
    ("freshet_learning_failed", "1 once the loop has stopped for good.", lambda s: s.loop.failed is not None),
    ("freshet_graph_clusters", "Clusters of the served graph.", lambda s: s.clusters),
    ("freshet_graph_items", "Items of the served graph.", lambda s: s.items),
    ("freshet_graph_edges", "Edges of the served graph.", lambda s: s.edges),
    ("freshet_learned_impressions", "Impressions in the sums of the served graph.", lambda s: s.impressions),
    ("freshet_learned_rewards", "Rewards in the sums of the served graph.", lambda s: s.rewards),
)


class StateCollector(Collector):
    """Reads a sample when scraped.

    Args:
        sample: takes one.
        gates: whose calls in flight are shown.
        version: release of the server.
    """

    def __init__(self, sample: Callable[[], Sample], *, gates: Sequence[Gate], version: str) -> None:
        self._sample = sample
        self._gates = gates
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are checked by a test, and a sample cannot be taken before the server runs."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families of one sample."""
        sample = self._sample()
        for name, documentation, value in _GAUGES:
            yield GaugeMetricFamily(name, documentation, value=float(value(sample)))
        outcomes = CounterMetricFamily(
            "freshet_feedback_outcomes", "What became of feedback since the store was made.", labels=["outcome"]
        )
        for outcome, count in sample.loop.counts.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
        yield CounterMetricFamily(
            "freshet_saturated_sums", "Additions that hit the largest value.", value=sample.loop.saturated
        )
        in_flight = GaugeMetricFamily("freshet_requests_in_flight", "Calls in flight.", labels=["kind"])
        for gate in self._gates:
            in_flight.add_metric([gate.kind], gate.in_flight)
        yield in_flight
        yield InfoMetricFamily(
            "freshet_build", "What runs.", value={"version": self._version, "backend": sample.loop.backend}
        )
        yield InfoMetricFamily("freshet_graph", "The served graph.", value={"version": sample.graph_version})

"""The graphs that workers write partitions of the parameters under, as metrics: a switch that hangs shows here."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from freshet.v1 import operations_pb2


class PartitionsCollector(Collector):
    """Reads the partitions when scraped.

    Args:
        partitions: gives them.
    """

    def __init__(self, partitions: Callable[[], Sequence[operations_pb2.GraphPartition]]) -> None:
        self._partitions = partitions

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families."""
        found = self._partitions()
        held = GaugeMetricFamily(
            "freshet_graph_partitions", "Partitions by the graph that they are written under.", labels=["version"]
        )
        for version, count in sorted(Counter(one.graph_version for one in found).items()):
            held.add_metric([version], count)
        yield held
        refused = "Partitions whose worker could not have the graph that was last asked for."
        yield GaugeMetricFamily(
            "freshet_graph_partitions_refusing", refused, value=sum(bool(one.refusal) for one in found)
        )

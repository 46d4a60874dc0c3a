"""Where parameters come from and feedback goes to: the embedded loop, or Kafka and its workers.

Both have the same methods; the rest of the server does not know which one it has.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from structlog.typing import FilteringBoundLogger

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2, operations_pb2
from server.settings import Settings
from streams.change import Change
from streams.embedded import EmbeddedLoop, LoopStatus
from streams.graph_switching import GraphSwitch
from streams.overlap_folder import StoredOverlap


class Loop(Protocol):
    """What the server needs of a loop; the methods are those of `streams.embedded.EmbeddedLoop`."""

    @property
    def graph(self) -> Graph | None:
        """The graph in force."""

    def start(self) -> None:
        """Begin."""

    def stop(self, *, grace_s: float) -> None:
        """Finish what was accepted."""

    def offer_impressions(self, batch: events_pb2.ImpressionBatch) -> "Future[None]":
        """Take validated impressions."""

    def offer_clicks(self, batch: events_pb2.ClickBatch) -> "Future[None]":
        """Take validated clicks."""

    def freeze(self, frozen: bool) -> None:
        """Stop or resume learning."""

    def load_graph(self, graph: Graph, overlap: StoredOverlap | None = None) -> GraphSwitch:
        """Switch to another graph."""

    def has_graph(self, version: str) -> bool:
        """Whether a version has been in force."""

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Add, change and retire items."""

    def state_hash(self) -> str:
        """Hash of all sums."""

    def status(self) -> LoopStatus:
        """What the loop is doing."""


@runtime_checkable
class LearnsElsewhere(Protocol):
    """A loop whose sums come from workers."""

    def graph_partitions(self) -> list[operations_pb2.GraphPartition]:
        """The graph that each partition is written under, and what its worker said when one was asked for."""


def make_loop(
    settings: Settings,
    *,
    graph: Graph | None,
    backend: Backend,
    on_change: Callable[[Change], None],
    clock_ms: Callable[[], int],
    log: FilteringBoundLogger,
) -> Loop:
    """The loop that the settings ask for.

    Raises:
        ValueError: Kafka without a graph, or a certificate that cannot be used.
        StoreError: the store of the embedded loop cannot be used.
    """
    if settings.kafka.bootstrap is None:
        return EmbeddedLoop(
            settings.data_dir,
            rule=settings.join.rule(),
            limits=settings.loop.limits(),
            backend=backend,
            graph=graph,
            on_change=on_change,
            clock_ms=clock_ms,
        )
    if graph is None:
        raise ValueError("graph: expected the artifact that the workers learn under, got none")
    # Only who runs on Kafka pays for its client.
    from server.kafka_loop import KafkaLoop

    return KafkaLoop(
        settings.kafka.bootstrap,
        names=settings.kafka.names(),
        limits=settings.loop.limits(),
        graph=graph,
        graph_dir=settings.graph_dir,
        on_change=on_change,
        log=log,
        security=settings.kafka.security(),
    )

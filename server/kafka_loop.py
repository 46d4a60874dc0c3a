"""The loop of a server in Kafka mode: feedback goes to the topics, parameters come from the workers.

It has the methods of `streams.embedded.EmbeddedLoop`, so that the server takes either.

Invariants: a future is done when the broker has the events, not when they have been learned; nothing here learns,
so freezing and graph changes are refused with the reason; the broker's absence never stops the serving.
"""

from collections.abc import Callable
from concurrent.futures import Future

from structlog.typing import FilteringBoundLogger

from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2
from server.kafka_follower import ParameterFollower
from server.kafka_producer import FeedbackProducer
from streams.change import Change
from streams.embedded import LoopFailed, LoopLimits, LoopStatus
from streams.graph_switching import GraphSwitch
from streams.overlap_folder import StoredOverlap
from streams.topics import TopicNames


class KafkaLoop:
    """Follower and producer as one loop.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        prefix: first part of all topic names.
        limits: bounds of what waits for the broker.
        graph: the graph that the workers learn under.
        on_change: as in the embedded loop; called from the follower's thread.
        log: where it is told that the broker is away; None = standard error.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        prefix: str,
        limits: LoopLimits,
        graph: Graph,
        on_change: Callable[[Change], None],
        log: FilteringBoundLogger | None = None,
    ) -> None:
        names = TopicNames(prefix)
        self.graph: Graph | None = graph
        self._follower = ParameterFollower(bootstrap, names=names, graph=graph, on_change=on_change, log=log)
        self._producer = FeedbackProducer(
            bootstrap,
            names=names,
            max_queued_events=limits.max_queued_events,
            retry_after_ms=limits.retry_after_ms,
            log=log,
        )

    def start(self) -> None:
        """Begin to follow; the first change comes when the parameters have been read to their end."""
        self._follower.start()

    def stop(self, *, grace_s: float) -> None:
        """Send what was accepted, stop following."""
        self._producer.stop(grace_s=grace_s)
        self._follower.stop()

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait until the snapshot has been filled."""
        return self._follower.wait_until_ready(timeout_s)

    def offer_impressions(self, batch: events_pb2.ImpressionBatch) -> "Future[None]":
        """Send validated impressions.

        Raises:
            QueueFull: too much is waiting, or no broker answers.
            LoopFailed: the server is stopping.
        """
        return self._producer.impressions(batch)

    def offer_clicks(self, batch: events_pb2.ClickBatch) -> "Future[None]":
        """Send validated clicks; as `offer_impressions`."""
        return self._producer.clicks(batch)

    def freeze(self, frozen: bool) -> None:
        """Refused: the workers learn.

        Raises:
            LoopFailed: always.
        """
        raise LoopFailed("in Kafka mode the workers learn: stop them to freeze learning")

    def load_graph(self, graph: Graph, overlap: StoredOverlap | None = None) -> GraphSwitch:
        """Refused: workers and servers must change it together.

        Raises:
            LoopFailed: always.
        """
        raise LoopFailed("in Kafka mode the graph is changed by restarting workers and servers with it")

    def has_graph(self, version: str) -> bool:
        """Whether a version is in force."""
        return self.graph is not None and self.graph.version == version

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Refused, as `load_graph`.

        Raises:
            LoopFailed: always.
        """
        raise LoopFailed("in Kafka mode the graph is changed by restarting workers and servers with it")

    def state_hash(self) -> str:
        """Hash of all rows followed so far."""
        return self._follower.state_hash()

    def status(self) -> LoopStatus:
        """What the loop is doing; what only workers know is 0."""
        return LoopStatus(
            queued_events=self._producer.queued_events,
            pending_impressions=0,
            waiting_clicks=0,
            counts={},
            ledger_end=self._follower.ledger_end,
            applied_position=self._follower.position,
            frozen=False,
            failed=self._follower.failed,
            backend="workers",
            saturated=0,
        )

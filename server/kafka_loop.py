"""The loop of a server in Kafka mode: feedback goes to the topics, parameters come from the workers.

It has the methods of `streams.embedded.EmbeddedLoop`, so that the server takes either.

Invariants: a future is done when the broker has the events, not when they have been learned; nothing here learns,
so freezing and other artifacts are refused with the reason; the broker's absence never stops the serving.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future

import grpc
import numpy as np
from structlog.typing import FilteringBoundLogger

from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2
from server.errors import Refused
from server.kafka_follower import ParameterFollower
from server.kafka_producer import FeedbackProducer
from streams.change import Change
from streams.embedded import LoopFailed, LoopLimits, LoopStatus, QueueFull
from streams.graph_switching import GraphSwitch
from streams.overlap_folder import StoredOverlap
from streams.topics import TopicNames

_TAKEN_S = 10.0
_IN_FORCE_S = 10.0
_LOOK_S = 0.01


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
        self._follower = ParameterFollower(bootstrap, names=names, graph=graph, on_change=on_change, log=log)
        self._producer = FeedbackProducer(
            bootstrap,
            names=names,
            max_queued_events=limits.max_queued_events,
            retry_after_ms=limits.retry_after_ms,
            log=log,
        )

    @property
    def graph(self) -> Graph | None:
        """The graph as the catalogue has it by now."""
        return self._follower.graph

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
        return self._follower.base_version == version

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Send changes of items to their topic, and wait until a worker has taken them over and this server serves.

        Raises:
            LoopFailed: the broker does not take them.
            Refused: UNAVAILABLE if no worker has taken them over in time; they are in the topic.
        """
        times = edit.published_ms or [0] * len(edit.item_ids)
        clusters = [np.sort(np.asarray(row, np.int64)).tolist() for row in edit.clusters]
        items: dict[str, events_pb2.Item | None] = {
            item_id: events_pb2.Item(
                item_id=item_id, cluster_ids=events_pb2.ClusterIds(values=row), published_at_ms=at_ms
            )
            for item_id, row, at_ms in zip(edit.item_ids, clusters, times, strict=True)
        }
        items |= dict.fromkeys(edit.retired)
        try:
            self._producer.items(items).result(_TAKEN_S)
        except (TimeoutError, QueueFull) as error:
            raise LoopFailed(f"the items topic was not written: {error}") from error
        wanted = dict(zip(edit.item_ids, clusters, strict=True))
        deadline_s = time.monotonic() + _IN_FORCE_S
        while not self._follower.has(wanted, edit.retired):
            if time.monotonic() > deadline_s:
                message = (
                    f"the items topic has the change, but no worker has taken it over within {_IN_FORCE_S:.0f} s"
                )
                raise Refused(grpc.StatusCode.UNAVAILABLE, message, reason="workers_behind")
            time.sleep(_LOOK_S)
        return self._follower.graph

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

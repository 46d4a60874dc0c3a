"""The loop of a server in Kafka mode: feedback goes to the topics, parameters come from the workers.

It has the methods of `streams.embedded.EmbeddedLoop`, so that the server takes either.

Invariants: a future is done when the broker has the events, not when they have been learned; nothing here learns,
so freezing is refused with the reason; another artifact comes into force everywhere or, if a worker cannot have it,
nowhere; the broker's absence never stops the serving.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from structlog.typing import FilteringBoundLogger

from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2, kafka_state_pb2, operations_pb2
from server.errors import Refused
from server.kafka_follower import ParameterFollower
from server.kafka_producer import FeedbackProducer
from server.logs import make_logger
from streams.artifact_dir import Artifacts, NoArtifact
from streams.change import Change
from streams.embedded import LoopFailed, LoopLimits, LoopStatus, QueueFull
from streams.graph_switching import GraphSwitch, shared_edges
from streams.kafka.handshake import Unreachable, check_brokers
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.overlap_folder import StoredOverlap
from streams.topics import TopicNames

_TAKEN_S = 10.0
_IN_FORCE_S = 10.0
_LOOK_S = 0.01
_GRAPH_S = 60.0
_LOOK_FOR_GRAPHS_S = 0.2


class KafkaLoop:
    """Follower and producer as one loop.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics.
        limits: bounds of what waits for the broker.
        graph: the graph that the workers learn under.
        graph_dir: where artifacts are found that workers go on to.
        on_change: as in the embedded loop; called from the follower's thread.
        log: where it is told that the broker is away; None = standard error.
        security: what connections are made with.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        names: TopicNames,
        limits: LoopLimits,
        graph: Graph,
        graph_dir: Path | None = None,
        on_change: Callable[[Change], None],
        log: FilteringBoundLogger | None = None,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._log = log or make_logger()
        self._bootstrap, self._security = bootstrap, security
        self._deployment = names.prefix
        self._graph_dir = graph_dir
        self._on_change = on_change
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._make = partial(ParameterFollower, bootstrap, names=names, log=self._log, security=security)
        self._follower = self._made(graph)
        self._next: ParameterFollower | None = None
        self._switching = threading.Thread(target=self._follow_graphs, name="freshet-kafka-graphs", daemon=True)
        self._producer = FeedbackProducer(
            bootstrap,
            names=names,
            max_queued_events=limits.max_queued_events,
            retry_after_ms=limits.retry_after_ms,
            log=log,
            security=security,
        )

    @property
    def graph(self) -> Graph | None:
        """The graph as the catalogue has it by now."""
        return self._follower.graph

    def start(self) -> None:
        """Begin to follow; the first change comes when the parameters have been read to their end.

        Raises:
            Refusal: a broker does not take our connections; one that is away is waited for.
        """
        try:
            check_brokers(self._bootstrap, self._security)
        except Unreachable as error:
            self._log.warning("waiting for a broker", reason=str(error))
        self._follower.start()
        if self._graph_dir is not None:
            self._switching.start()

    def stop(self, *, grace_s: float) -> None:
        """Send what was accepted, stop following."""
        self._stopping.set()
        if self._switching.is_alive():
            self._switching.join()
        self._producer.stop(grace_s=grace_s)
        for follower in (self._follower, self._next):
            if follower is not None:
                follower.stop()

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait until the snapshot has been filled."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self._follower.wait_until_ready(_LOOK_S):
                return True
        return False

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
        """Ask all workers whether they can have an artifact, then to go on under it; wait until it is served here.

        Raises:
            ValueError: a worker cannot, or the map is not between these clusters; nothing has changed.
            LoopFailed: the broker does not take the order.
            Refused: UNAVAILABLE if a partition has not answered, or not gone on, in time.
        """
        old = self._follower.graph
        if overlap is not None:
            overlap.check(old, graph)
        if self._follower.base_version == graph.version:
            return GraphSwitch(old.n_live_edges, 0, 0)
        order = kafka_state_pb2.GraphOrder(
            version=graph.version, overlap=overlap.name if overlap else "", deployment=self._deployment
        )
        tried = self._producer.order(_as_trial(order))
        self._wait(
            lambda: self._follower.answers(tried) is not None, "not every worker has said whether it has the graph"
        )
        refusals = sorted(set((self._follower.answers(tried) or {}).values()))
        if refusals:
            raise ValueError(f"a worker cannot have it: {'; '.join(refusals)}")
        self._producer.order(order)
        self._wait(
            lambda: self._follower.base_version == graph.version,
            "the workers have been told to go on, but this server does not serve their rows yet",
        )
        kept = 0 if overlap is not None else shared_edges(old, graph)
        return GraphSwitch(kept, graph.n_edges - kept, old.n_live_edges - kept)

    def graph_partitions(self) -> list[operations_pb2.GraphPartition]:
        """The graph that each partition is written under, and what its worker said when one was asked for."""
        return [
            operations_pb2.GraphPartition(
                partition=number,
                worker=mark.worker,
                graph_version=mark.graph_version,
                asked_version=mark.trial_version,
                refusal=mark.refusal,
            )
            for number, mark in self._follower.partitions()
        ]

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait for the workers.

        Raises:
            Refused: UNAVAILABLE, they have not come so far in time.
        """
        deadline_s = time.monotonic() + _GRAPH_S
        while not until():
            if time.monotonic() > deadline_s or self._stopping.is_set():
                message = f"{what} after {_GRAPH_S:.0f} s"
                raise Refused(grpc.StatusCode.UNAVAILABLE, message, reason="workers_behind")
            time.sleep(_LOOK_S)

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

    def _made(self, graph: Graph) -> ParameterFollower:
        """A follower under a graph; from when it is ready it hands over, and the one before no more."""

        def hand_over(change: Change) -> None:
            with self._writing:
                if change.full and follower is self._next:
                    self._log.info("another graph", version=change.graph.version)
                    self._follower, self._next = follower, None
                if follower is self._follower:
                    self._on_change(change)

        follower = self._make(graph=graph, on_change=hand_over)
        return follower

    def _follow_graphs(self) -> None:
        """Follow the workers to another artifact: read everything under it, and then serve that."""
        told = ""
        while not self._stopping.wait(_LOOK_FOR_GRAPHS_S):
            current, begun = self._follower, self._next
            wanted = (begun or current).other_version
            if not wanted or self._graph_dir is None:
                continue
            try:
                graph = Artifacts([self._graph_dir]).graph(wanted)
            except (NoArtifact, ValueError, OSError) as error:
                reason = str(error)
                if told != reason:
                    self._log.error("workers learn under another graph", reason=reason)
                    told = reason
                continue
            if begun is not None:
                begun.stop()
            with self._writing:
                following = self._next = self._made(graph)
            following.start()
            while not (self._next is None or following.other_version or self._stopping.wait(_LOOK_S)):
                pass
            if self._next is None:
                current.stop()

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


def _as_trial(order: kafka_state_pb2.GraphOrder) -> kafka_state_pb2.GraphOrder:
    """The question that goes before an order."""
    trial = kafka_state_pb2.GraphOrder()
    trial.CopyFrom(order)
    trial.trial = True
    return trial

"""Feedback of callers to the source topics.

Invariants: a future is done only when the broker has every record of the call on all in-sync replicas; what waits
is bounded; the events of a request go to the partition that producers with Kafka's default partitioner give it.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from structlog.typing import FilteringBoundLogger

from freshet.v1 import events_pb2, kafka_state_pb2
from server.logs import make_logger
from streams.embedded import LoopFailed, QueueFull
from streams.kafka.graph_marks import order_key
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.topics import TopicNames

PROTOBUF = [("content-type", b"application/x-protobuf")]
_RECORD_BYTES = 400_000
_LINGER_MS = 5
_BATCH_BYTES = 256 << 10
_METADATA_MS = 1_000

Event = events_pb2.Impression | events_pb2.Click


class FeedbackProducer:
    """Sends impressions and clicks.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics.
        max_queued_events: shown items and clicks that may wait for the broker.
        retry_after_ms: what callers are told to wait when too many do.
        delivery_timeout_ms: how long a record may be tried.
        log: where it is told that the broker is away; None = standard error.
        security: what connections are made with.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        names: TopicNames,
        max_queued_events: int,
        retry_after_ms: int,
        delivery_timeout_ms: int = 30_000,
        log: FilteringBoundLogger | None = None,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._log = log or make_logger()
        self._bootstrap = bootstrap
        self._security = security
        self._names = names
        self._max_queued_events = max_queued_events
        self._retry_after_ms = retry_after_ms
        self._delivery_timeout_ms = delivery_timeout_ms
        self._queued = 0
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._producer: Any = None
        self._stopped = False

    @property
    def queued_events(self) -> int:
        """Shown items and clicks that wait for the broker."""
        return self._queued

    def impressions(self, batch: events_pb2.ImpressionBatch) -> "Future[None]":
        """Send impressions.

        Raises:
            QueueFull: too much is waiting, or no broker answers.
            LoopFailed: the server is stopping.
        """
        size = sum(len(impression.items) for impression in batch.impressions)
        return self._send(
            self._names.impressions, "impressions", events_pb2.ImpressionBatch, batch.impressions, size
        )

    def clicks(self, batch: events_pb2.ClickBatch) -> "Future[None]":
        """Send clicks; raises as `impressions`."""
        return self._send(self._names.clicks, "clicks", events_pb2.ClickBatch, batch.clicks, len(batch.clicks))

    def items(self, items: Mapping[str, events_pb2.Item | None]) -> "Future[None]":
        """Send items, None to retire one; raises as `impressions`."""
        done: Future[None] = Future()
        if self._stopped:
            raise LoopFailed("the server is stopping")
        self._reserve(len(items))
        try:
            producer = self._connected()
            waiting = _Waiting(len(items), lambda error: self._finish(done, len(items), error))
            for item_id, item in items.items():
                value = None if item is None else item.SerializeToString()
                sent = producer.send(self._names.items, value, key=item_id.encode(), headers=PROTOBUF)
                sent.add_callback(waiting.one_done).add_errback(waiting.one_failed)
        except KafkaError as error:
            self._log.warning("no broker takes items", error=repr(error))
            self._release(len(items))
            raise QueueFull(self._retry_after_ms) from error
        return done

    def order(self, order: kafka_state_pb2.GraphOrder) -> tuple[int, int]:
        """Ask all workers for a graph; partition and offset of the question in the items topic.

        Raises:
            QueueFull: no broker answers.
            LoopFailed: the server is stopping, or the broker did not take it.
        """
        if self._stopped:
            raise LoopFailed("the server is stopping")
        try:
            key = order_key(order.deployment)
            sent = self._connected().send(self._names.items, order.SerializeToString(), key=key, headers=PROTOBUF)
            written = sent.get(self._delivery_timeout_ms / 1000)
        except KafkaError as error:
            self._log.warning("no broker takes an order", error=repr(error))
            raise LoopFailed(f"the items topic was not written: {error}") from error
        return written.partition, written.offset

    def stop(self, *, grace_s: float) -> None:
        """Send what was accepted, then close."""
        self._stopped = True
        if self._producer is not None:
            self._producer.close(timeout=grace_s)

    def _send(self, topic: str, field: str, message: Any, events: Sequence[Event], size: int) -> "Future[None]":
        if self._stopped:
            raise LoopFailed("the server is stopping")
        self._reserve(size)
        done: Future[None] = Future()
        try:
            producer = self._connected()
            partitions = sorted(producer.partitions_for(topic))
            records = [
                (partition, piece[0].request_id.encode(), message(**{field: piece}).SerializeToString())
                for partition, mine in _by_partition(events, partitions).items()
                for piece in _pieces(mine)
            ]
            waiting = _Waiting(len(records), lambda error: self._finish(done, size, error))
            for partition, key, value in records:
                sent = producer.send(topic, value, key=key, partition=partition, headers=PROTOBUF)
                sent.add_callback(waiting.one_done).add_errback(waiting.one_failed)
        except KafkaError as error:
            # Some of it may be on its way: it counts once however often it is sent again.
            self._log.warning("no broker takes feedback", error=repr(error))
            self._release(size)
            raise QueueFull(self._retry_after_ms) from error
        return done

    def _connected(self) -> Any:
        with self._connecting:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    client_id="freshet-server",
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=_LINGER_MS,
                    batch_size=_BATCH_BYTES,
                    max_block_ms=_METADATA_MS,
                    request_timeout_ms=min(10_000, self._delivery_timeout_ms // 2),
                    delivery_timeout_ms=self._delivery_timeout_ms,
                    reconnect_backoff_max_ms=1_000,
                    **self._security.keywords(),
                )
            return self._producer

    def _reserve(self, size: int) -> None:
        with self._lock:
            if self._queued and self._queued + size > self._max_queued_events:
                raise QueueFull(self._retry_after_ms)
            self._queued += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._queued -= size

    def _finish(self, done: "Future[None]", size: int, error: Exception | None) -> None:
        self._release(size)
        try:
            if error is None:
                done.set_result(None)
            else:
                self._log.warning("feedback was not taken in time", error=repr(error))
                done.set_exception(TimeoutError("the broker did not take the feedback in time"))
        except InvalidStateError:
            pass  # the caller has given up


class _Waiting:
    """Calls back once, when all records of a call have been answered."""

    def __init__(self, count: int, then: Any) -> None:
        self._left = count
        self._then = then
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def one_done(self, _: Any) -> None:
        self._count_down(None)

    def one_failed(self, error: Exception) -> None:
        self._count_down(error)

    def _count_down(self, error: Exception | None) -> None:
        with self._lock:
            self._left -= 1
            self._error = self._error or error
            last = self._left == 0
        if last:
            self._then(self._error)


def partition_of(request_id: str, count: int) -> int:
    """The partition that Kafka's default partitioner gives a key."""
    return int((murmur2(request_id.encode()) & 0x7FFFFFFF) % count)


def _by_partition(events: Iterable[Event], partitions: Sequence[int]) -> dict[int, list[Event]]:
    grouped: dict[int, list[Event]] = {}
    for event in events:
        grouped.setdefault(partitions[partition_of(event.request_id, len(partitions))], []).append(event)
    return grouped


def _pieces(events: Sequence[Event]) -> Iterable[list[Event]]:
    """Events in order, cut where a record would become too large."""
    piece: list[Event] = []
    size = 0
    for event in events:
        own = event.ByteSize()
        if piece and size + own > _RECORD_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += own
    if piece:
        yield piece

"""A Faust transport that hands agents all chunks of a poll, of all their partitions, as one event.

Invariants:
- Faust decides who owns which partition and runs the agents; where to read from is decided by the stores alone.
  Until the owner of a partition has said where (`start_from`), nothing of it is delivered.
- Nothing is ever taken from the offsets that the group has committed. They are a copy for monitoring.
- An event is acknowledged by delivery: what has been applied is known to the store and nobody else.

Stock Faust pays 200 microseconds a record for futures and turns of the event loop; a poll pays them twice. This
overrides private methods of Faust, so its version is pinned and a canary test watches them.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import aiokafka
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from streams.kafka.assignor import make_assignor
from streams.kafka.chunk import Chunk, LogRecord
from streams.kafka.membership import NamedCoordinator

SCHEME = "freshet"
FAUST_VERSION = "0.15.3"

UNKNOWN = -1

_POLL_S = 0.2
_IDLE_S = 0.02
_PACE_S = 0.005  # an event of Faust costs 0.2 ms whatever is in it
_RECORDS_PER_POLL = 10_000
# How long what is fetched and held back keeps everything else of its broker from being fetched. It is held back
# whenever a worker catches up; the client's own 100 ms are meant for readers that have just not come to it.
_HELD_BACK_S = 0.005

Result = TypeVar("Result")


@dataclass(frozen=True)
class Seen:
    """How far a partition had been read when the broker last answered a fetch of it.

    Attributes:
        position: offset of the next record to be read.
        end: end of the partition then.
        at_ms: when, Unix milliseconds.
    """

    position: int
    end: int
    at_ms: int


class ChunkThread(driver.AIOKafkaConsumerThread):
    """Runs the client in its own thread and loop, so that heartbeats do not wait for the work."""

    _consumer: Any
    _idle: asyncio.Future[None] | None = None  # of a poll that waits for more
    _outdated = False  # the poll asks for less than may be delivered by now

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        options = transport.options
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=options.worker if options.static_member else None,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[make_assignor(options.worker, options.together)],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 300.0) * 1000),
            max_partition_fetch_bytes=options.max_partition_fetch_bytes,
            fetch_max_wait_ms=options.fetch_max_wait_ms,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=options.metadata_max_age_ms,
            check_crcs=True,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    @property
    def is_sure(self) -> bool:
        """True if no other worker can have been given the partitions, as far as the group decides."""
        return time.monotonic() < float(self._ensure_consumer()._coordinator.sure_until_s)

    async def on_start(self) -> None:
        """Connect; the group is joined later."""
        await super().on_start()
        NamedCoordinator.take_over(self._consumer._coordinator)
        self._consumer._fetcher._prefetch_backoff = _HELD_BACK_S

    @property
    def replaced(self) -> bool:
        """True if another process has joined the group under this worker's name."""
        return bool(self._ensure_consumer()._coordinator.replaced)

    async def chunks(self, tps: Iterable[TP]) -> list[Chunk]:
        """What has been fetched of some partitions since the last call; waits a moment for it, or until `wake`."""
        self._outdated = False
        return await self._in_thread(self._chunks([TopicPartition(*tp) for tp in tps]))

    def wake(self) -> None:
        """End a poll that waits: other partitions may be delivered now, of which something may be there already."""
        self._outdated = True
        if self._idle is not None:
            self.thread_loop.call_soon_threadsafe(self._end_poll)

    def _end_poll(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _in_thread(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of something done in the client's loop; Faust's own way does two such things at a time."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.thread_loop))

    async def _chunks(self, tps: Sequence[TopicPartition]) -> list[Chunk]:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        consumer._coordinator.check()
        before = self._positions()
        with fetcher._subscriptions.fetch_context():
            fetched: Mapping[TopicPartition, list[LogRecord]] = await fetcher.fetched_records(
                tps, timeout=0, max_records=_RECORDS_PER_POLL
            )
            if not fetched:
                await self._wait_for_more(fetcher)
        after = self._positions()
        chunks = []
        for tp, records in fetched.items():
            start, end = before.get(tp, UNKNOWN), after.get(tp, UNKNOWN)
            # A seek or a rebalance in between makes these disagree; such a chunk has no known place in the log.
            if not start <= records[0].offset <= records[-1].offset < end:
                start = end = UNKNOWN
            chunks.append(Chunk(tp.topic, tp.partition, start, end, records))
        return chunks

    async def _wait_for_more(self, fetcher: Any) -> None:
        """Wait until something new has been fetched, but only for a moment.

        Raises:
            KafkaError: fetching has failed.
        """
        idle = self._idle = fetcher._create_fetch_waiter()
        if self._outdated:
            self._end_poll()
        try:
            async with asyncio.timeout(_POLL_S):
                await idle
        except TimeoutError:
            return
        finally:
            self._idle = None

    def _positions(self) -> dict[TopicPartition, int]:
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription else None
        if assignment is None:
            return {}
        states = ((tp, assignment.state_value(tp)) for tp in assignment.tps)
        return {tp: state._position for tp, state in states if state.has_valid_position}

    def seen(self, tp: TP) -> Seen | None:
        """How far a partition has been read; None before the first answer."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription else None
        state = assignment.state_value(TopicPartition(*tp)) if assignment else None
        if state is None or not state.has_valid_position or state.highwater is None or state.timestamp is None:
            return None
        return Seen(state._position, state.highwater, int(state.timestamp))

    async def seek_to(self, tp: TP, offset: int) -> None:
        """Read a partition from an offset on."""

        async def seek() -> None:
            consumer = self._ensure_consumer()
            if TopicPartition(*tp) in consumer.assignment():
                consumer.seek(TopicPartition(*tp), offset)

        await self._in_thread(seek())

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """First offset and end of partitions, as the broker has them now."""
        wanted = [TopicPartition(*tp) for tp in tps]

        async def ask() -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
            consumer = self._ensure_consumer()
            return await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)

        first, end = await self._in_thread(ask())
        return {TP(*tp): (first[tp], end[tp]) for tp in wanted}

    async def commit_copy(self, offsets: Mapping[TP, int]) -> None:
        """Tell the group's coordinator how far the stores are; failing is no harm."""

        async def commit() -> None:
            consumer = self._ensure_consumer()
            mine = consumer.assignment()
            known = {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
            await consumer.commit({tp: offset for tp, offset in known.items() if tp in mine})

        await self.call_thread(commit)


class ChunkConsumer(driver.Consumer):
    """Delivers chunks of the partitions that have been told where to start, while they have room."""

    _thread: ChunkThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: dict[TP, int] = {}

    def _new_consumer_thread(self) -> ChunkThread:
        return ChunkThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def thread(self) -> ChunkThread:
        """The client."""
        return self._thread

    @property
    def _options(self) -> "TransportOptions":
        transport: Any = self.transport
        options: TransportOptions = transport.options
        return options

    async def start_from(self, tp: TP, offset: int) -> None:
        """Deliver a partition from an offset on; until then nothing of it is delivered."""
        self._expected[tp] = offset
        await self._thread.seek_to(tp, offset)
        self._thread.wake()

    def stop_delivering(self, tps: Iterable[TP]) -> None:
        """Deliver nothing of some partitions until they are started again."""
        for tp in tps:
            self._expected.pop(tp, None)

    # --- what Faust calls ---------------------------------------------------------------------------------------

    async def perform_seek(self) -> None:
        """Faust seeks to the committed offsets here; the stores decide instead (`start_from`)."""

    async def _drain_messages(self, fetcher: Any) -> None:
        stopped = (self._stopped.is_set, fetcher._stopped.is_set)
        while not any(is_set() for is_set in stopped):
            if not self.flow_active:
                await self.wait(self.can_resume_flow.wait())
                continue
            wanted = self._options.wanted()
            if not wanted:
                await self.sleep(_IDLE_S)
                continue
            asked_s = time.monotonic()
            try:
                chunks = await self._thread.chunks(wanted)
            except ConsumerStoppedError:
                if self.app.should_stop:
                    return
                raise
            except Exception as error:  # without a consumer the process is of no use, and Faust would leave it so
                self._options.on_failure(error)
                raise
            if chunks:
                await self._deliver(chunks)
                await self.sleep(max(0.0, asked_s + _PACE_S - time.monotonic()))

    async def _deliver(self, chunks: Sequence[Chunk]) -> None:
        """Hand over what follows what was handed over before: one event for the joiners, one for the learners."""
        events: dict[bool, list[Chunk]] = {}
        for chunk in chunks:
            tp = TP(chunk.topic, chunk.partition)
            expected = self._expected.get(tp)
            if expected is None:
                continue
            if chunk.start != expected:
                await self._thread.seek_to(tp, expected)
                continue
            self._expected[tp] = chunk.end
            events.setdefault(chunk.topic in self._options.together, []).append(chunk)
        for event in events.values():
            if not self.flow_active:
                return
            # The flow stops for a rebalance; whoever owns the partitions then says anew where to start.
            await self.wait_first(self.callback(self._message(event)), self.suspend_flow.wait())

    def _message(self, chunks: Sequence[Chunk]) -> ConsumerMessage:
        generation = self.app.consumer_generation_id
        now = time.time()
        value: Any = tuple(chunks)
        tp, start = TP(chunks[0].topic, chunks[0].partition), chunks[0].start
        return ConsumerMessage(
            tp.topic, tp.partition, start, now, 0, None, None, value, None, 0, 0, tp, generation_id=generation
        )

    def track_message(self, message: Message) -> None:
        """The stores track what was applied."""

    def ack(self, message: Message) -> bool:
        """Delivered; nothing is concluded from it."""
        message.acked = True
        return True

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Copy the stores' positions to the group, for lag monitors."""
        positions = self._options.positions()
        if not positions:
            return False
        try:
            await self._thread.commit_copy(positions)
        except Exception as error:  # it is a copy: the next round writes it again
            self.log.debug("the offsets could not be copied to the group: %r", error)
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust complains about slow streams here; the worker watches positions itself."""


@dataclass(frozen=True, kw_only=True)
class TransportOptions:
    """What the transport must know beyond Faust's settings.

    Attributes:
        worker: name of this worker, kept over restarts.
        together: topics whose equal partition numbers belong to one worker.
        positions: how far the stores are.
        wanted: partitions that may be delivered now; the others stay with the client, which then fetches no more.
        on_failure: called when nothing can be consumed any more.
        static_member: come back to the same partitions within a session.
        max_partition_fetch_bytes: most that one fetch brings of a partition.
        fetch_max_wait_ms: how long the broker may hold an empty fetch back.
        metadata_max_age_ms: how long brokers and partitions may be remembered.
    """

    worker: str
    together: tuple[str, ...]
    positions: Callable[[], Mapping[TP, int]]
    wanted: Callable[[], Sequence[TP]]
    on_failure: Callable[[Exception], None]
    static_member: bool = True
    max_partition_fetch_bytes: int = 1 << 20
    fetch_max_wait_ms: int = 100
    metadata_max_age_ms: int = 30_000


class ChunkTransport(driver.Transport):
    """The transport; `options` must be set before the app starts."""

    Consumer: ClassVar[type[Any]] = ChunkConsumer
    options: TransportOptions


TRANSPORTS.aliases[SCHEME] = f"{__name__}:{ChunkTransport.__name__}"

# Overridden above; the canary test holds each against the pinned version.
OVERRIDDEN: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
    (driver.AIOKafkaConsumerThread, ("_create_worker_consumer", "_ensure_consumer", "call_thread", "on_start")),
    (GroupCoordinator, ("reset_generation", "_do_rejoin_group", "_do_heartbeat", "_send_req", "check_errors")),
    (
        driver.Consumer,
        (
            "_new_consumer_thread",
            "perform_seek",
            "_drain_messages",
            "track_message",
            "ack",
            "commit",
            "verify_event_path",
        ),
    ),
)

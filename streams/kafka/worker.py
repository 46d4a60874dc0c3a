"""The worker: one Faust app that owns joiner and learner partitions.

Invariants: Faust says which partitions are owned and runs the agents; an agent only hands chunks to the partition
that they belong to. Whatever goes wrong unexpectedly ends the process: memory may be ahead of the disk, and only a
restart, which reads the disk, puts that right.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import faust
import structlog
from faust.types import TP

from bandits.artifact import load_graph
from bandits.backend import choose_backend
from streams.artifact_dir import Artifacts, NewestGraph
from streams.kafka import joiner_recovery, learner_recovery
from streams.kafka.at_once import all_at_once
from streams.kafka.catalogue_bridge import bridge
from streams.kafka.chunk import Chunk, ChunkSchema
from streams.kafka.graph_following import GraphFollowing, keep_copy
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.handshake import check_brokers
from streams.kafka.joiner_partition import JoinerPartition
from streams.kafka.joiner_rounds import JoinerRounds
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.learner_rounds import LearnerRounds
from streams.kafka.log_reader import LogReader, open_reader
from streams.kafka.partition import Partition, Surroundings, WorkerError
from streams.kafka.sender import Sender
from streams.kafka.side_threads import SideThreads, disk_threads
from streams.kafka.takeover import take_over
from streams.kafka.transport import SCHEME, ChunkConsumer, TransportOptions
from streams.kafka.worker_settings import WorkerSettings
from streams.topics import missing_topic

EXIT_FAILED = 70
_WATCH_S = 1.0
_FRESH_MS = 5_000

log = structlog.get_logger("freshet.kafka")


def end_process(reason: str) -> None:
    """Say why, and end the process at once."""
    log.error("the worker ends", reason=reason)
    os._exit(EXIT_FAILED)


def lock_folder(folder: Path) -> BinaryIO:
    """Keep other workers out of a data directory until the file is closed, or the process ends.

    Raises:
        WorkerError: another worker uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "LOCK").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise WorkerError(f"the data directory {folder} is used by another worker") from None
    return lock


class Worker:
    """One worker over one data directory.

    Args:
        settings: all of them.
        on_failure: called with the reason when the worker cannot go on; it must not return.
    """

    def __init__(self, settings: WorkerSettings, *, on_failure: Callable[[str], None] = end_process) -> None:
        self.settings = settings
        self._names = settings.names
        self._on_failure = on_failure
        self._owned: dict[TP, Partition] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._around: Surroundings | None = None
        self._shelf: GraphShelf | None = None
        self._progress: dict[TP, tuple[int, float]] = {}
        self._following: GraphFollowing | None = None
        self.app = self._make_app()

    async def start(self) -> None:
        """Load the graph, connect, join the group.

        Raises:
            WorkerError: a topic is missing, or another worker uses the data directory.
            DamagedGraph: the graph cannot be loaded.
            ConnectionError, SecurityError, KafkaError: no broker answers, or takes the connection.
        """
        settings, names = self.settings, self._names
        watched = settings.graph_dir if settings.graph_watch_s else None
        newest = NewestGraph(watched) if watched else None
        graph = (newest and newest.first()) or load_graph(settings.graph)
        self._lock = lock_folder(settings.data_dir)
        copies = settings.graph_dir or keep_copy(settings.graph, settings.data_dir)
        await asyncio.to_thread(check_brokers, settings.bootstrap, settings.security, group=settings.group_id)
        senders = [
            Sender(
                settings.bootstrap,
                client_id=settings.name,
                request_timeout_ms=settings.request_timeout_ms,
                security=settings.security,
            )
            for _ in range(2)
        ]
        for sender in senders:
            await sender.start()
        async with self._reader() as reader:
            counts = {topic: await reader.partitions(topic) for topic in (*self._topics(), names.parameters)}
        self._check(counts)
        self._around = Surroundings(
            settings=settings,
            names=names,
            consumer=self._consumer,
            sender=senders[0],
            rows_sender=senders[1],
            disk=disk_threads(),
            joins=SideThreads("joins"),
            backend=choose_backend(
                settings.backend,
                extended=settings.rule.extends_facts,
                gpu_crossover=settings.gpu_crossover,
                tell=lambda line: log.warning("gpu", reason=line),
            ),
            ledger_partitions=counts[names.outcomes],
        )
        self._shelf = GraphShelf(
            Artifacts([settings.graph, copies]), counts[names.outcomes], self._around.backend, graph
        )
        self._following = GraphFollowing(self._around, self._shelf, newest, self._learners)
        self._shelf.sums_of(graph.version, 0).compile_rows()
        await self.app.start()
        self._watching = [
            asyncio.ensure_future(self._guard(work)) for work in (self._watch(), self._following.run())
        ]

    async def stop(self) -> None:
        """Leave the group and close the stores; what is not committed is read again by whoever comes next."""
        for task in self._watching:
            task.cancel()
        await self._let_go()
        await self.app.stop()
        if self._around:
            await self._around.sender.stop()
            await self._around.rows_sender.stop()
            self._around.disk.close()
            self._around.joins.close()
        self._lock.close()

    @property
    def partitions(self) -> Mapping[TP, Partition]:
        """What this worker owns now."""
        return self._owned

    def _reader(self) -> contextlib.AbstractAsyncContextManager[LogReader]:
        settings = self.settings
        return open_reader(settings.bootstrap, client_id=settings.name, security=settings.security)

    def _learners(self) -> list[LearnerPartition]:
        """Owned learner partitions that have been recovered."""
        owned = dict.fromkeys(self._owned.values())
        return [learner for learner in owned if isinstance(learner, LearnerPartition) and learner.is_started]

    @property
    def _consumer(self) -> ChunkConsumer:
        consumer: Any = self.app.consumer
        return cast(ChunkConsumer, consumer)

    def _make_app(self) -> faust.App:
        settings, names = self.settings, self._names
        app = faust.App(
            settings.group_id,
            broker=[f"{SCHEME}://{address.strip()}" for address in settings.bootstrap.split(",")],
            broker_client_id=settings.name,
            broker_credentials=settings.security.faust_credentials(),
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.heartbeat_interval_ms / 1000,
            broker_rebalance_timeout=settings.rebalance_timeout_ms / 1000,
            broker_request_timeout=max(settings.request_timeout_ms, settings.session_timeout_ms) / 1000,
            broker_commit_interval=1.0,
            store="memory://",
            stream_buffer_maxsize=4,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            datadir=str(settings.data_dir / "faust"),
        )
        transport: Any = app.transport
        transport.options = TransportOptions(
            worker=settings.name,
            together=(names.impressions, names.clicks),
            positions=self._stored_positions,
            wanted=self._wanted,
            on_failure=self._failed,
            static_member=settings.static_member,
        )
        for name in ("joiner", "learner"):
            topics = [names.impressions, names.clicks] if name == "joiner" else [names.outcomes]
            source = app.topic(*topics, schema=ChunkSchema(), internal=False)
            agent: Any = app.agent(source, name=f"freshet.{name}", concurrency=1)
            agent(self._route)
        for signal, handler in (
            (app.on_partitions_revoked, self._revoked),
            (app.on_partitions_assigned, self._assigned),
        ):
            connect: Any = signal.connect
            connect(handler, weak=False)
        return app

    def _topics(self) -> tuple[str, str, str]:
        return self._names.impressions, self._names.clicks, self._names.outcomes

    def _check(self, counts: Mapping[str, int]) -> None:
        names = self._names
        for topic, count in counts.items():
            if not count:
                raise WorkerError(missing_topic(topic))
        for one, other in ((names.impressions, names.clicks), (names.outcomes, names.parameters)):
            if counts[one] != counts[other]:
                raise WorkerError(
                    f"{one} has {counts[one]} partitions and {other} has {counts[other]}: they must be equal"
                )

    # --- what Faust calls ---------------------------------------------------------------------------------------

    async def _route(self, stream: AsyncIterator[Sequence[Chunk]]) -> None:
        async for chunks in stream:
            for chunk in chunks:
                partition = self._owned.get(TP(chunk.topic, chunk.partition))
                if partition is not None:
                    partition.deliver(chunk)

    async def _revoked(self, _: Any, revoked: set[TP], **__: Any) -> None:
        await self._let_go()

    async def _assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:
        await self._let_go()
        task = asyncio.ensure_future(self._guard(self._take_on(set(assigned), self.app.consumer_generation_id)))
        self._tasks.append(task)

    # --- ownership ----------------------------------------------------------------------------------------------

    async def _take_on(self, assigned: set[TP], generation: int) -> None:
        around, shelf, following, names = self._around, self._shelf, self._following, self._names
        if around is None or shelf is None or following is None:
            raise WorkerError("partitions came before the worker was started")
        joiners = [
            JoinerPartition(tp.partition, around)
            for tp in sorted(assigned)
            if tp.topic == names.impressions and TP(names.clicks, tp.partition) in assigned
        ]
        self._own(joiners)
        learners = [
            LearnerPartition(tp.partition, around, shelf) for tp in sorted(assigned) if tp.topic == names.outcomes
        ]
        self._own(learners)
        joining = JoinerRounds(around)
        learning = LearnerRounds(around, lambda: joining.is_behind)
        for rounds in (learning, joining):
            self._tasks.append(asyncio.ensure_future(self._guard(rounds.run())))
        log.info("owns", joiners=[p.number for p in joiners], learners=[p.number for p in learners])

        async def learn(learner: LearnerPartition) -> None:
            async with self._reader() as own:
                await learner_recovery.recover(learner, own, generation=generation)
            await learning.add(learner)

        async with self._reader() as reader:
            await all_at_once([learn(learner) for learner in learners])
            shelf.drop_unused()
            await following.begin(learners)
            if learners:
                self._tasks.append(asyncio.ensure_future(self._guard(bridge(around, learners))))
            if joiners:
                views = await take_over(joiners, around, reader, generation=generation)

                async def join(joiner: JoinerPartition) -> None:
                    await joiner_recovery.recover(joiner, views[joiner.number])
                    await joining.add(joiner)

                await all_at_once([join(joiner) for joiner in joiners])

    def _own(self, partitions: list[Any]) -> None:
        for partition in partitions:
            for tp in partition.tps:
                self._owned[tp] = partition

    async def _let_go(self) -> None:
        """End everything that writes; it is as if the process had crashed for these partitions."""
        self._consumer.stop_delivering(list(self._owned))
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        owned, self._owned = self._owned, {}
        for partition in dict.fromkeys(owned.values()):
            partition.end()
        self._progress.clear()

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, WorkerError):
            self._on_failure(str(error))
            return
        with contextlib.suppress(Exception):
            log.error("unexpected", exc_info=error)
        self._on_failure(f"{type(error).__name__}: {error}")

    def _stored_positions(self) -> dict[TP, int]:
        stored = (partition.stored_positions() for partition in dict.fromkeys(self._owned.values()))
        return {tp: position for positions in stored for tp, position in positions.items()}

    def _wanted(self) -> list[TP]:
        return [tp for tp, partition in self._owned.items() if partition.wants(tp)]

    # --- watching -----------------------------------------------------------------------------------------------

    def _positions(self) -> dict[TP, int]:
        positions: dict[TP, int] = {}
        for partition in dict.fromkeys(self._owned.values()):
            positions |= partition.positions()
        return positions

    async def _watch(self) -> None:
        """End the process if it has been replaced, or if a partition stands still while there is work for it."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._consumer.thread.replaced:
                raise WorkerError(
                    f'another process has joined the group as "{self.settings.name}": '
                    "every worker needs a name of its own"
                )
            now_s, now_ms = time.monotonic(), int(time.time() * 1000)
            for tp, position in self._positions().items():
                seen = self._consumer.thread.seen(tp)
                moved = sum(self._owned[tp].positions().values())  # a topic that is ahead waits for the other
                before, since_s = self._progress.get(tp, (-1, now_s))
                behind = seen is not None and seen.end > position and now_ms - seen.at_ms < _FRESH_MS
                if moved != before or not behind:
                    self._progress[tp] = (moved, now_s)
                elif now_s - since_s > self.settings.stall_timeout_ms / 1000:
                    raise WorkerError(
                        f"{tp.topic}[{tp.partition}] has stood at offset {position} for {now_s - since_s:.0f} s"
                    )

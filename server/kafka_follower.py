"""Follows the parameters topic: rows that learners publish become changes of the server's snapshot.

Invariants:
- Nothing is handed over before every partition has been read to the end that it had at the start; the first change
  is full. A row never goes back: an older one, from a replaced owner or a replay, is passed over.
- A broker that is gone is waited for; what was read stays served, and `ledger_end` says that the end is not known.
- The position is the sum of the partitions' marks, so that it grows with every one of them.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from structlog.typing import FilteringBoundLogger

from bandits.backend_numpy import NumpyBackend
from bandits.edited_sums import clear_rows
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edited
from bandits.learner import Learner
from bandits.sums import Int32, state_hash
from freshet.v1 import parameters_pb2
from server.logs import make_logger
from streams.change import Change, Fading, rows_now
from streams.kafka.catalogue import EDITED_TAG, Edited, edited_at, graph_edit
from streams.kafka.handshake import why_refused
from streams.kafka.ledger import partitions_of
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.row_codec import decode_rows, place_rows
from streams.topics import TopicNames

MARK_BYTE = b"\xff"
_POLL_MS = 100
_RECORDS_PER_POLL = 20_000
_PAUSE_S = 1.0
_ASK_S = 0.5
_ANSWER_MS = 2_000
_REQUEST_MS = 5_000
_METADATA_MS = 10_000


class ParameterFollower:
    """Reads all partitions in a thread of its own.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics.
        graph: the artifact that the workers learn under; items that its rows say were added, changed or retired
            since are, here too.
        on_change: called from the thread: once in full when caught up, then with what changed.
        log: where it is told that the broker is away; None = standard error.
        security: what connections are made with.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        names: TopicNames,
        graph: Graph,
        on_change: Callable[[Change], None],
        log: FilteringBoundLogger | None = None,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._log = log or make_logger()
        self._bootstrap = bootstrap
        self._security = security
        self._names = names
        self._on_change = on_change
        self._held = Learner.empty(graph, NumpyBackend())
        self.base_version = graph.version
        self._waiting: dict[int, dict[str, bytes]] = {}  # rows of edited items, by partition, until the next mark
        self._settled: dict[int, dict[str, bytes]] = {}  # such rows behind a mark, until attached
        self._edited: dict[str, int] = {}  # from which ledger position on the edges of an item are as they are
        self._edited_up_to: dict[int, int] = {}
        self._versions: dict[int, str] = {}  # artifact that the rows of a partition are written under
        self._went_on: dict[int, tuple[int, str]] = {}  # since when, by the broker's clock
        self._epochs: dict[int, int] = {}
        self._last_marks: dict[int, parameters_pb2.PartitionMark] = {}
        self._switched_at: dict[int, int] = {}
        self._unfinished: set[int] = set()  # partitions whose rows are being published under this artifact
        self._is_outdated = False
        self._partition_of = np.empty(0, np.int64)
        self._count = 0
        self._caught_up = False
        self._fading = Fading()
        self._marks: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ledger_end: int | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self.failed: str | None = None
        self._threads = [
            threading.Thread(target=self._keep, args=(work,), name=f"freshet-{work.__name__}", daemon=True)
            for work in (self._follow, self._ask)
        ]

    def start(self) -> None:
        """Begin to read; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_PAUSE_S + (_ANSWER_MS + _REQUEST_MS) / 1000)

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait until the first full change has been handed over."""
        return self._ready.wait(timeout_s)

    @property
    def graph(self) -> Graph:
        """The graph as the catalogue has it by now."""
        return self._held.graph

    def has(self, attached: Mapping[str, Sequence[int]], retired: Sequence[str]) -> bool:
        """Whether the graph has items on these clusters, and others no longer."""
        graph = self._held.graph
        for number, clusters in zip(graph.lookup([*attached]).tolist(), attached.values(), strict=True):
            row = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]]
            if number < 0 or row.tolist() != list(clusters):
                return False
        return bool((graph.lookup(list(retired)) < 0).all())

    @property
    def position(self) -> int:
        """Ledger position that the rows include, summed over the partitions."""
        return sum(self._marks.values())

    @property
    def ledger_end(self) -> int:
        """End of the ledger, summed over its partitions; one beyond the position while the broker does not say."""
        end = self._ledger_end
        return self.position + 1 if end is None else max(end, self.position)

    def state_hash(self) -> str:
        """Hash of the rows as they are now."""
        with self._lock:
            return state_hash(self._held.graph, self._held.sums)

    # --- threads ------------------------------------------------------------------------------------------------

    def _keep(self, work: Callable[[], None]) -> None:
        """Do some work again and again while the broker fails; anything else is told once and ends it."""
        while not self._stopping.is_set():
            try:
                work()
            except KafkaError as error:
                why = why_refused(self._bootstrap, self._security, timeout_s=_PAUSE_S)
                self._log.warning("the broker does not answer", work=work.__name__, error=repr(error), reason=why)
            except Exception as error:
                self.failed = f"{type(error).__name__}: {error}"
                self._log.exception("following the parameters has stopped")
                return
            self._ledger_end = None
            self._stopping.wait(_PAUSE_S)

    def _follow(self) -> None:
        consumer = self._consumer()
        try:
            tps = self._assign(consumer, self._names.parameters)
            ends = consumer.end_offsets(tps)
            starts = consumer.beginning_offsets(tps)
            for tp in tps:
                consumer.seek(tp, starts[tp])
            behind = {tp for tp in tps if starts[tp] < ends[tp]}
            self._count = len(tps)
            while not self._stopping.is_set():
                if behind:
                    behind = {tp for tp in behind if consumer.position(tp) < ends[tp]}
                self._caught_up = self._caught_up or not behind
                # Not before all partitions are of this artifact: a reply is of one graph.
                whole = not self._unfinished and not any(self._is_foreign(tp.partition) for tp in tps)
                if not behind and whole and not self._ready.is_set():
                    self._hand_over_all()
                self._take(consumer.poll(timeout_ms=_POLL_MS, max_records=_RECORDS_PER_POLL))
        finally:
            consumer.close()

    def _ask(self) -> None:
        """Ask for the end of the ledger."""
        consumer = self._consumer()
        try:
            tps = self._assign(consumer, self._names.outcomes)
            while not self._stopping.wait(_ASK_S):
                self._ledger_end = sum(consumer.end_offsets(tps, timeout_ms=_ANSWER_MS).values())
        finally:
            consumer.close()

    def _consumer(self) -> Any:
        return KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="freshet-server",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=_REQUEST_MS,
            metadata_max_age_ms=_METADATA_MS,
            reconnect_backoff_max_ms=1_000,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=4 << 20,
            **self._security.keywords(),
        )

    def _assign(self, consumer: Any, topic: str) -> list[TopicPartition]:
        while not self._stopping.is_set():
            numbers = consumer.partitions_for_topic(topic)
            if numbers:
                tps = [TopicPartition(topic, number) for number in sorted(numbers)]
                consumer.assign(tps)
                return tps
            self._log.warning("waiting for a topic", topic=topic)
            self._stopping.wait(_PAUSE_S)
        return []

    # --- rows ---------------------------------------------------------------------------------------------------

    def _take(self, fetched: Mapping[TopicPartition, Sequence[Any]]) -> None:
        names: list[str] = []
        values: list[bytes] = []
        writers: list[int] = []  # the partition of each row
        marks: dict[int, int] = {}
        for tp, records in fetched.items():
            waiting = self._waiting.setdefault(tp.partition, {})
            for record in records:
                key, value = record.key or b"", record.value
                if key[:1] == MARK_BYTE and value is not None:
                    mark = parameters_pb2.PartitionMark.FromString(value)
                    if key == MARK_BYTE:
                        self._follow_version(tp.partition, mark, record.timestamp, waiting)
                        self._unfinished.discard(tp.partition)
                    elif self._follow_version(tp.partition, mark, record.timestamp, waiting):
                        self._unfinished.add(tp.partition)
                if self._is_foreign(tp.partition):
                    continue
                if key == MARK_BYTE and value is not None:
                    marks[tp.partition] = max(marks.get(tp.partition, 0), mark.position)
                    # What was published together comes into force together, so that versions mean one graph.
                    self._settled.setdefault(tp.partition, {}).update(waiting)
                    waiting.clear()
                elif key[:1] not in (MARK_BYTE, b"") and value is not None:
                    name = key.decode("utf-8", "replace")
                    if EDITED_TAG in value and edited_at(value):
                        waiting[name] = value
                    else:
                        names.append(name)
                        values.append(value)
                        writers.append(tp.partition)
        if not names and not marks:
            return
        # Until all has been read a partition may come back to this artifact, where it has none of these edits.
        ready = self._attach_settled() if self._ready.is_set() else {}
        # A switch among these very records speaks of the rows before it, too.
        floors = [self._switched_at.get(partition, 0) for partition in writers] + [0] * len(ready)
        items = self._place([*names, *ready], [*values, *ready.values()], floors)
        for partition, position in marks.items():
            self._marks[partition] = max(self._marks.get(partition, 0), position)
        if self._ready.is_set():
            self._hand_over(items)

    def _place(self, names: list[str], values: list[bytes], floors: list[int]) -> Int32:
        if not names:
            return np.empty(0, np.int32)
        try:
            rows = decode_rows(names, values)
        except ValueError as error:
            # One writer of nonsense must not stop the serving of all other rows.
            self._log.error("rows passed over", reason=str(error), rows=len(names))
            return self._place_singly(names, values, floors)
        now = np.flatnonzero(rows.position >= np.array(floors)).tolist()
        if len(now) < len(names):
            return self._place(*([column[at] for at in now] for column in (names, values, floors)))  # type: ignore
        with self._lock:
            place_rows(self._held.graph, rows, self._held.sums, self._held.row_position)
        number = self._held.graph.lookup(names)
        changed: Int32 = np.unique(number[number >= 0]).astype(np.int32)
        return changed

    def _place_singly(self, names: list[str], values: list[bytes], floors: list[int]) -> Int32:
        changed: list[Int32] = []
        for name, value, floor in zip(names, values, floors, strict=True):
            try:
                decode_rows([name], [value])
            except ValueError:
                continue
            changed.append(self._place([name], [value], [floor]))
        return np.unique(np.concatenate(changed)) if changed else np.empty(0, np.int32)

    @property
    def other_version(self) -> str:
        """The artifact that workers have gone on to last, if it is another; empty while that is not known.

        Where they have come back to this one, it is this one: rows here are of the time before.
        """
        if not self._caught_up or not self._went_on:
            return ""
        _, version = max(self._went_on.values())
        return "" if version == self.base_version and not self._is_outdated else version

    def answers(self, place: tuple[int, int]) -> dict[int, str] | None:
        """Why partitions cannot come under the graph that was asked for there; None while one has not answered."""
        answered = {
            number: mark.refusal
            for number, mark in self.partitions()
            if (mark.trial_partition, mark.trial_offset, bool(mark.trial_version)) == (*place, True)
        }
        return {number: why for number, why in answered.items() if why} if len(answered) == self._count else None

    def partitions(self) -> list[tuple[int, parameters_pb2.PartitionMark]]:
        """The last mark of each partition, ascending."""
        return sorted(dict(self._last_marks).items())

    def _follow_version(
        self, partition: int, mark: parameters_pb2.PartitionMark, at_ms: int, waiting: dict[str, bytes]
    ) -> bool:
        """Note under which artifact a partition is written from here on; whether that is since now."""
        if mark.epoch < self._epochs.get(partition, 0):
            return False  # of an owner that had been replaced
        self._epochs[partition] = mark.epoch
        self._last_marks[partition] = mark
        is_new = mark.switched_at > self._switched_at.get(partition, 0)
        if is_new:
            self._switched_at[partition] = mark.switched_at
            waiting.clear()
            self._settled.pop(partition, None)
            if mark.graph_version == self.base_version:
                self._is_outdated |= self._ready.is_set()
                self._forget(partition, mark.switched_at)
        if mark.graph_version and self._versions.get(partition) != mark.graph_version:
            self._versions[partition] = mark.graph_version
            self._went_on[partition] = (at_ms, mark.graph_version)
            waiting.clear()  # what was edited under another artifact was edited onto that
            self._settled.pop(partition, None)
        return is_new

    def _forget(self, partition: int, switched_at: int) -> None:
        """Forget rows of a partition that are of a graph before."""
        if self._is_outdated:
            return
        held = self._held
        if len(self._partition_of) != held.graph.n_items:
            self._partition_of = partitions_of(held.graph.item_ids, self._count)
        mine = self._partition_of == partition
        items = np.flatnonzero(mine & (held.row_position > 0) & (held.row_position < switched_at)).astype(np.int32)
        with self._lock:
            clear_rows(held.graph, held.sums, items)
            held.row_position[items] = 0

    def _is_foreign(self, partition: int) -> bool:
        """Whether rows of a partition are those of another artifact, or of this one at another time."""
        return self._is_outdated or self._versions.get(partition, self.base_version) != self.base_version

    def _attach_settled(self) -> dict[str, bytes]:
        """Attach edited items that a mark has come for; their rows."""
        rows: dict[str, bytes] = {}
        for partition, settled in self._settled.items():
            latest = max((edited_at(value) for value in settled.values()), default=0)
            self._edited_up_to[partition] = max(self._edited_up_to.get(partition, 0), latest)
            rows |= settled
        self._settled.clear()
        if rows:
            self._edit(rows)
        return rows

    def _edit(self, rows: Mapping[str, bytes]) -> None:
        """Attach and retire items as their rows say."""
        items = {name: Edited.from_bytes(value) for name, value in rows.items()}
        news = {name: one for name, one in items.items() if one.at > self._edited.get(name, 0)}
        self._edited |= {name: one.at for name, one in news.items()}
        old = self._held.graph
        try:
            # Retired items are attached before, so that their sums are kept here as the learners keep them.
            version, gone = self._version(), [name for name, one in news.items() if one.retired]
            all_items = graph_edit(version, news)
            graph = edited(old, all_items, GraphEdit(version, retired=gone))
        except ValueError as error:  # rows of another artifact
            self._log.error("items not attached", reason=str(error), items=len(news))
            return
        with self._lock:
            added = self._held.edit_graph(graph)
            rows_of = decode_rows([*rows], [*rows.values()])
            place_rows(graph, rows_of, self._held.sums, self._held.row_position)
        if self._ready.is_set():
            now_ms = self._fading.now_ms
            change = rows_now(graph, self._held.sums, added, position=self.position, now_ms=now_ms, extends=old)
            self._on_change(change)

    def _version(self) -> str:
        """Names the artifact and how far the catalogue's changes are in force in each partition."""
        count = 1 + max(self._edited_up_to, default=0)
        return f"{self.base_version}+{'.'.join(str(self._edited_up_to.get(p, 0)) for p in range(count))}"

    def _hand_over(self, items: Int32) -> None:
        if self._fading.moves_on(self._held.sums, items):
            items = np.arange(self._held.graph.n_items, dtype=np.int32)
        now_ms = self._fading.now_ms
        self._on_change(rows_now(self._held.graph, self._held.sums, items, position=self.position, now_ms=now_ms))

    def _hand_over_all(self) -> None:
        self._attach_settled()
        graph, sums = self._held.graph, self._held.sums
        items = np.arange(graph.n_items, dtype=np.int32)
        self._fading.moves_on(sums, slice(None))
        now_ms = self._fading.now_ms
        change = rows_now(graph, sums, items, position=self.position, full=True, now_ms=now_ms)
        self._on_change(change)
        self._ready.set()
        self._log.info("caught up with the parameters", position=self.position)

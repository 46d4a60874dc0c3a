"""The embedded loop: joiner, ledger and learner in one process, on RocksDB.

Invariants:
- One writer thread owns joiner, learner and store. What it commits, it commits in one WriteBatch.
- A future is done only when its events are on disk and what they changed has been handed to `on_change`.
- After any failure to commit the loop stops for good: memory may be ahead of the disk, and only a restart, which
  reads the disk, puts that right.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bandits.backend import Backend
from bandits.first_use import compile_learning
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from bandits.join_rule import JoinRule
from bandits.learner import Learner
from bandits.sums import state_hash
from freshet.v1 import events_pb2
from streams.change import Change
from streams.commit import Committer, Incoming
from streams.graph_history import graph_folder, restore_graph
from streams.graph_switching import GraphSwitch, GraphSwitching
from streams.overlap_folder import StoredOverlap
from streams.restore import restore_joiner, restore_learner
from streams.store import Store, StoreError

Result = TypeVar("Result")

_CLOSED_TOGETHER_S = 0.2  # windows that close within this time share a micro-batch


class QueueFull(RuntimeError):
    """Too much is waiting; try again after `retry_after_ms`."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"the feedback queue is full, try again in {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class LoopFailed(RuntimeError):
    """The loop has stopped; the message says why."""


@dataclass(frozen=True)
class LoopLimits:
    """Bounds of the loop.

    Attributes:
        max_queued_events: impressions' items and clicks that may wait for the writer.
        max_batch_events: how many the writer takes into one micro-batch.
        retry_after_ms: what callers are told to wait when the queue is full.
        max_edited_items: so many items added, changed or retired, and the graph's artifact is written anew.
    """

    max_queued_events: int = 200_000
    max_batch_events: int = 20_000
    retry_after_ms: int = 200
    max_edited_items: int = 20_000


@dataclass(frozen=True)
class LoopStatus:
    """What the loop is doing."""

    queued_events: int
    pending_impressions: int
    waiting_clicks: int
    counts: dict[str, int]
    ledger_end: int
    applied_position: int
    frozen: bool
    failed: str | None
    backend: str
    saturated: int
    in_flight: int = 0


class EmbeddedLoop:
    """Joiner -> ledger -> learner -> `on_change`, durable.

    Args:
        data_dir: where everything is kept.
        rule: the join rule.
        limits: bounds.
        backend: adds the facts.
        graph: taken if the store has none yet; otherwise the store's own is used.
        on_change: called from the writer thread after each commit, and once in full by `start`.
        clock_ms: the time of ingestion, Unix milliseconds.

    Raises:
        StoreError: the store cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        rule: JoinRule,
        limits: LoopLimits,
        backend: Backend,
        graph: Graph | None,
        on_change: Callable[[Change], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._data_dir = data_dir
        self._rule = rule
        self._limits = limits
        self._backend = backend
        self._store = Store(data_dir / "store")
        try:
            head = self._store.head()
            taken = restore_graph(self._store, data_dir, head) if head.graph_version else None
            learner = restore_learner(self._store, head, taken, backend) if taken is not None else None
            joiner = restore_joiner(self._store, rule)
            self._committer = Committer(self._store, head, joiner, learner, on_change, clock_ms, backend)
            self._graphs = GraphSwitching(
                data_dir,
                self._committer,
                max_edited_items=limits.max_edited_items,
                on_writer=self._on_writer,
            )
            if graph is not None and taken is None:
                self._graphs.adopt(graph)
            self._committer.record_rule()
        except BaseException:
            self._store.close()  # else it stays locked
            raise
        self._work = threading.Condition()
        self._queue: deque[Incoming] = deque()
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._queued_events = 0
        self._stopping = False
        self._failed: str | None = None
        self._thread = threading.Thread(target=self._run, name="freshet-loop", daemon=True)

    @property
    def graph(self) -> Graph | None:
        """The graph in force."""
        return self._graphs.graph

    def start(self) -> None:
        """Catch up with the ledger, hand over all rows, start the writer thread.

        What the first event would wait for is compiled before: on a machine where that was never done, seconds.
        """
        compile_learning(self._rule, self._backend)
        self._committer.catch_up()
        self._committer.publish_all()
        self._thread.start()

    def stop(self, *, grace_s: float) -> None:
        """Write what was accepted, then close the store; after `grace_s` what is left is refused, not lost."""
        with self._work:
            self._stopping = True
            self._work.notify()
        if self._thread.ident is not None:  # else it was never started
            self._thread.join(grace_s)
        if self._thread.is_alive():
            self._fail("the server is stopping")
            self._thread.join()
        self._graphs.close()
        self._store.close()

    def offer_impressions(self, batch: events_pb2.ImpressionBatch) -> "Future[None]":
        """Take validated impressions; the future is done when they are durable.

        Raises:
            QueueFull: too much is waiting.
            LoopFailed: the loop has stopped.
        """
        return self._offer(Incoming(batch, sum(len(slate.items) for slate in batch.impressions)))

    def offer_clicks(self, batch: events_pb2.ClickBatch) -> "Future[None]":
        """Take validated clicks; as `offer_impressions`."""
        return self._offer(Incoming(batch, len(batch.clicks)))

    def freeze(self, frozen: bool) -> None:
        """Stop or resume learning, durably. Feedback is still taken; resuming catches up with it."""
        self._on_writer(lambda: self._committer.freeze(frozen))

    def load_graph(self, graph: Graph, overlap: StoredOverlap | None = None) -> GraphSwitch:
        """Switch to another graph. Edges and items in both keep their sums.

        Args:
            graph: the other graph.
            overlap: where its clusters were made anew: what became of the old ones. Sums are inherited through it.

        Raises:
            ValueError: its version was another graph's before, or the map is not between these clusters.
        """
        return self._on_writer(lambda: self._graphs.switch(graph, overlap))

    def has_graph(self, version: str) -> bool:
        """Whether the artifact of a version has been in force."""
        return graph_folder(self._data_dir, version).exists()

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Add, change and retire items; the graph after it, which is in force and durable.

        Raises:
            ValueError: there is no graph, or the edit does not fit it.
        """
        return self._on_writer(lambda: self._graphs.edit(edit))

    def state_hash(self) -> str:
        """Hash of all sums at the current position."""
        return self._on_writer(self._hash)

    def status(self) -> LoopStatus:
        """What the loop is doing; numbers of different fields may be a micro-batch apart."""
        joiner, learner, head = self._committer.joiner, self._committer.learner, self._committer.head
        counts = joiner.tally.as_dict()
        counts["dead_letters"] = head.dead_letters
        counts["facts_applied"] = learner.facts_applied if learner else 0
        counts["facts_unknown"] = learner.facts_unknown if learner else 0
        return LoopStatus(
            queued_events=self._queued_events,
            pending_impressions=joiner.pending_rows,
            waiting_clicks=joiner.waiting_clicks,
            counts=counts,
            ledger_end=head.ledger_end,
            applied_position=head.applied_position,
            frozen=head.frozen,
            failed=self._failed,
            backend=self._backend.name,
            saturated=learner.sums.saturated if learner else 0,
            in_flight=joiner.rows_in_flight,
        )

    # --- the writer thread -------------------------------------------------------------------------------------

    def _offer(self, incoming: Incoming) -> "Future[None]":
        with self._work:
            self._check_open()
            if not incoming.events:
                incoming.done.set_result(None)  # there is nothing to write
                return incoming.done
            if self._queued_events and self._queued_events + incoming.events > self._limits.max_queued_events:
                raise QueueFull(self._limits.retry_after_ms)
            self._queue.append(incoming)
            self._queued_events += incoming.events
            self._work.notify()
        return incoming.done

    def _on_writer(self, command: Callable[[], Result]) -> Result:
        done: Future[Result] = Future()
        with self._work:
            self._check_open()
            self._commands.append((command, done))
            self._work.notify()
        return done.result()

    def _check_open(self) -> None:
        if self._failed or self._stopping:
            raise LoopFailed(self._failed or "the server is stopping")

    def _run(self) -> None:
        while True:
            with self._work:
                due = False
                while not (self._queue or self._commands or self._stopping or due):
                    closes_in_s = self._committer.closes_in_s()
                    self._work.wait(None if closes_in_s is None else closes_in_s + _CLOSED_TOGETHER_S)
                    due = self._committer.closes_in_s() == 0
                if self._failed or (self._stopping and not self._queue and not self._commands):
                    return
                commands, batch = list(self._commands), self._take()
                self._commands.clear()
            try:
                for command, done in commands:
                    self._obey(command, done)
                if batch or due:
                    self._committer.commit(batch)
            except Exception as error:
                reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
                self._fail(reason, batch)
                return
            for incoming in batch:
                with contextlib.suppress(InvalidStateError):  # its caller gave up; what it offered is taken
                    incoming.done.set_result(None)

    def _take(self) -> list[Incoming]:
        batch: list[Incoming] = []
        events = 0
        while self._queue and (not batch or events + self._queue[0].events <= self._limits.max_batch_events):
            batch.append(self._queue.popleft())
            events += batch[-1].events
        self._queued_events -= events
        return batch

    def _obey(self, command: Callable[[], Any], done: "Future[Any]") -> None:
        try:
            done.set_result(command())
        except StoreError as error:
            done.set_exception(error)
            raise
        except Exception as error:
            done.set_exception(error)

    def _fail(self, reason: str, batch: list[Incoming] | None = None) -> None:
        with self._work:
            self._failed = reason
            left = [*(batch or []), *self._queue]
            self._queue.clear()
            commands = list(self._commands)
            self._commands.clear()
        for future in [*(incoming.done for incoming in left), *(done for _, done in commands)]:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(LoopFailed(reason))

    # --- graph -------------------------------------------------------------------------------------------------

    def _hash(self) -> str:
        learner: Learner | None = self._committer.learner
        return state_hash(learner.graph, learner.sums) if learner else "0" * 32

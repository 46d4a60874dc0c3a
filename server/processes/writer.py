"""The writing process: the only one that learns, or follows what workers learn, and the one that operators call.

Invariants: it alone opens the store and writes the parameters' memory; it says every quarter of a second that it is
alive. When learning has failed it ends, and is started again from what is on disk, while the others go on serving.
"""

import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version as installed_version
from typing import Any

from structlog.typing import FilteringBoundLogger

from bandits.artifact import load_graph
from bandits.backend import choose_backend, serving_backend
from server.assembly import (
    Gates,
    Parts,
    add_operations,
    make_awaited,
    make_click_topic,
    make_lane_watch,
    make_operating_listener,
    make_rules,
)
from server.collectors import StateCollector
from server.forgetting_watch import ForgettingWatch
from server.graph_changes import GraphChanges
from server.graph_watch import GraphWatch
from server.health import OPERATIONS, Health
from server.item_places import ItemPlaces
from server.listener import Listener
from server.loops import LearnsElsewhere, Loop, make_loop
from server.metrics import Metrics
from server.partitions_collector import PartitionsCollector
from server.processes.board import Board, Fitted
from server.processes.feedback_link import FeedbackServer
from server.processes.publisher import Publisher
from server.processes.report import families_of
from server.processes.segment import Segment
from server.processes.shadow_notes import NotesIn
from server.processes.shared_parameters import WriterSnapshot
from server.sampling import Sampling
from server.settings import Settings
from server.shadow.awaited import AwaitedRewards
from server.shadow.collector import ShadowCollector, SlatesCollector
from server.snapshot import Parameters
from server.vitals import Vitals
from streams.corpus.item_place import ItemPlace

_BEAT_S = 0.25


class WritingProcess:
    """The parts of the writing process; it is started and stopped once.

    Args:
        settings: all of them.
        board: of all processes.
        first_segment: number of the first segment that it makes.
        on_segment: called with each, and returns once readers have gone there.
        link: a local socket that listens, for the others' feedback; None = they have producers of their own.
        notes: where slates come from that wait for rewards; None = there are no shadow policies.
        clock_ms: Unix milliseconds.
        log: of this process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        board: Board,
        first_segment: int,
        on_segment: Callable[[Segment], None],
        link: socket.socket | None,
        notes: socket.socket | None,
        clock_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._board = board
        self._link = link
        self._notes = notes
        self._clock_ms = clock_ms
        self._log = log
        self._version = installed_version("freshet")
        self._metrics = Metrics()
        self._health = Health()
        self._rules = make_rules(settings)
        self._backend = choose_backend(
            settings.backend,
            extended=settings.join.rule().extends_facts,
            gpu_crossover=settings.gpu_crossover,
            tell=lambda line: log.warning("gpu", reason=line),
        )
        serving = serving_backend(self._backend)
        publisher = self._publisher = Publisher(
            board,
            policy=lambda: self._rules.current.slate.policy,
            compiled=serving.name == "numba",
            first_number=first_segment,
            on_segment=on_segment,
        )
        self.snapshot = WriterSnapshot(serving, publisher)
        self._awaited = make_awaited(settings, clock_ms=clock_ms, log=log)
        self._click_topic = make_click_topic(settings, self._awaited, log)
        self._lane_watch = make_lane_watch(settings, clock_ms=clock_ms, tell=publisher.tell_closed)
        self._fitted: Fitted | None = None
        self._loop: Loop | None = None
        self._vitals: Vitals | None = None
        self._watch: GraphWatch | None = None
        self._listener: Listener | None = None
        self._stopping = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="freshet-beat", daemon=True)

    @property
    def failed(self) -> str | None:
        """Why learning has stopped, if it has."""
        return self._health.failed

    def start(self) -> str:
        """Open the store or begin to follow, publish what is there, answer operators; the operators' address.

        Raises:
            StoreError, ValueError, OSError: the store, the graph or the address cannot be used.
        """
        settings, gates = self._settings, Gates(self._settings)
        graph = load_graph(settings.graph) if settings.graph else None
        listener = self._listener = make_operating_listener(settings, gates, self._metrics, self._log)
        forgetting = ForgettingWatch(self.snapshot.apply, log=self._log)
        self._metrics.registry.register(forgetting)
        loop = self._loop = make_loop(
            settings,
            graph=graph,
            backend=self._backend,
            on_change=forgetting.apply,
            clock_ms=self._clock_ms,
            log=self._log,
        )
        loop.start()
        looks = [self._tell_rules]
        if self._lane_watch is not None:
            looks.append(self._lane_watch.look)
            self._metrics.registry.register(self._lane_watch)
        sampling = Sampling(
            snapshot=self.snapshot, rules=self._rules, health=self._health, log=self._log, looks=looks
        )
        vitals = self._vitals = Vitals(
            loop=loop, snapshot=self.snapshot, metrics=self._metrics, on_sample=sampling.take
        )
        tower = ItemPlace.load(settings.item_tower) if settings.item_tower else None
        changes = GraphChanges(
            loop, graph_dir=settings.graph_dir, places=ItemPlaces(tower), clock_ms=self._clock_ms
        )
        self._watch = self._make_watch(changes, loop)
        parts = Parts(
            settings=settings,
            loop=loop,
            snapshot=self.snapshot,
            rules=self._rules,
            vitals=vitals,
            metrics=self._metrics,
            health=self._health,
            gates=gates,
            exploration=None,
            shadows=None,
            awaited=self._awaited,
            version=self._version,
            clock_ms=self._clock_ms,
        )
        add_operations(parts, listener, changes=changes, refusal=lambda: self._watch.refusal if self._watch else "")
        collector = StateCollector(vitals.sample, gates=gates.all(), version=self._version)
        self._metrics.registry.register(collector)
        if isinstance(loop, LearnsElsewhere):
            self._metrics.registry.register(PartitionsCollector(loop.graph_partitions))
        vitals.start()
        self._beating.start()
        if self._watch:
            self._watch.start()
        if self._awaited is not None:
            self._await_rewards(self._awaited)
        if self._link is not None:
            FeedbackServer(self._link, loop, self._awaited.clicked if self._awaited else None).start()
        listener.start(self._health, (OPERATIONS,))
        return listener.address

    def stop(self, grace_s: float) -> None:
        """Answer operators' calls in flight, write what was accepted, close."""
        self._stopping.set()
        self._health.stopping()
        if self._listener is not None:
            self._listener.begin_stop(grace_s).wait()
            self._listener.close()
        if self._watch:
            self._watch.stop()
        if self._click_topic:
            self._click_topic.stop()
        if self._awaited:
            self._awaited.stop()
        if self._vitals:
            self._vitals.stop()
        if self._loop:
            self._loop.stop(grace_s=grace_s)

    def report(self) -> dict[str, Any]:
        """How it is doing, for the page of all processes."""
        sample = asdict(self._vitals.sample()) if self._vitals else None
        policy = self._rules.current.names[self._settings.policy.mode]
        standings = [asdict(standing) for standing in self._awaited.standings()] if self._awaited else []
        families = families_of(self._metrics.registry)
        return {"families": families, "sample": sample, "policy": policy, "shadows": standings}

    def _await_rewards(self, awaited: AwaitedRewards) -> None:
        """Follow the slates that the others shadow, and their clicks."""
        self._metrics.registry.register(ShadowCollector(awaited))
        self._metrics.registry.register(SlatesCollector(awaited.outcomes))
        awaited.start()
        if self._click_topic:
            self._click_topic.start()
        if self._notes is not None:
            policies, began_ms = len(self._settings.shadow.policies), self._clock_ms()
            NotesIn(self._notes, awaited, policies=policies, began_ms=began_ms).start()

    def _beat(self) -> None:
        while True:
            if self._loop:
                status = self._loop.status()
                self._board.beat(ledger_end=status.ledger_end, frozen=status.frozen)
                self._publisher.copy_wished()
            if self._stopping.wait(_BEAT_S):
                return

    def _tell_rules(self, parameters: Parameters) -> None:
        """Have the others score by what has been fitted, if it has changed."""
        policy = self._rules.current.slate.policy
        fitted = (*policy.beta_prior, policy.pooled_mean)
        if fitted != self._fitted:
            self._board.tell_fitted(fitted)
            self._fitted = fitted

    def _make_watch(self, changes: GraphChanges, loop: Loop) -> GraphWatch | None:
        settings = self._settings
        if not settings.graph_watch_s or settings.graph_dir is None or settings.kafka.bootstrap:
            return None  # as in `App`
        return GraphWatch(
            settings.graph_dir,
            interval_s=settings.graph_watch_s,
            changes=changes,
            seen=loop.has_graph,
            metrics=self._metrics,
            log=self._log,
        )

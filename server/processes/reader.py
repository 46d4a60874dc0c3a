"""A serving process: answers callers from memory that it does not write.

Invariants: it begins to listen when it has compiled what answers calls and has been told to; a stop answers the
calls in flight. It learns nothing: feedback goes to the writer's socket, or to Kafka by a producer of its own.
"""

import socket
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from bandits.backend import choose_backend
from bandits.graph import build_graph
from server.assembly import (
    Gates,
    Parts,
    add_callers_services,
    budget_window_ms,
    make_exploration,
    make_rules,
    make_serving_listener,
    make_shadows,
)
from server.collectors import StateCollector
from server.compile_beside import CompilingBeside
from server.health import FEEDBACK, RECOMMENDER, Health
from server.life_cycle import Exploration
from server.listener import Listener
from server.metrics import Metrics
from server.processes.board import Board
from server.processes.feedback_link import FeedbackClient
from server.processes.reader_parts import FollowedRules, ReaderLoop
from server.processes.report import families_of
from server.processes.segment import Segment
from server.processes.shadow_notes import NotesOut
from server.processes.shared_parameters import SharedSnapshot
from server.processes.shared_showings import SharedShowings
from server.processes.shared_spending import SharedSpending
from server.sampling import Sampling
from server.settings import Settings
from server.shadow.collector import SlatesCollector
from server.snapshot import Snapshot
from server.vitals import Vitals
from server.warm_up import compile_what_answers, score_once
from streams.change import Change


class ServingProcess:
    """The parts of a serving process; making it compiles what answers calls. It is started and stopped once.

    Args:
        settings: all of them; `address` with the port that all serving processes share.
        board: of all processes.
        number: of this one.
        link: address of the writer's socket; None = feedback goes to Kafka.
        notes: where shadowed slates are told; None = there are no shadow policies.
        clock_ms: Unix milliseconds.
        log: of this process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        board: Board,
        number: int,
        link: bytes | None,
        notes: socket.socket | None,
        clock_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._log = log
        self._gates = Gates(settings)
        self._metrics = Metrics()
        self._health = Health()
        # Slates are filled by the processor; a GPU is the writer's.
        self._backend = choose_backend("numpy" if settings.backend == "numpy" else "numba")
        self._snapshot = SharedSnapshot(self._backend, board, number)
        self._rules = FollowedRules(make_rules(settings), board)
        self._loop = _make_loop(settings, self._snapshot, board, link, log, backend=self._backend.name)
        self._clock_ms = clock_ms
        self._version = installed_version("freshet")
        self._shadows = make_shadows(
            settings,
            self._rules,
            awaiting=None if notes is None else NotesOut(notes),
            clock_ms=clock_ms,
            log=log,
        )
        if self._shadows:
            self._metrics.registry.register(SlatesCollector(self._shadows.outcomes))
        exploration = self._exploration = self._make_exploration(board, number)
        sampling = Sampling(
            snapshot=self._snapshot,
            rules=self._rules,
            health=self._health,
            log=log,
            looks=[] if exploration is None else [exploration.look],
        )
        self._vitals = Vitals(
            loop=self._loop, snapshot=self._snapshot, metrics=self._metrics, on_sample=sampling.take
        )
        self._listener: Listener | None = None
        collector = StateCollector(self._vitals.sample, gates=self._gates.all(), version=self._version)
        self._metrics.registry.register(collector)
        beside, slate = CompilingBeside(self._backend), self._rules.current.slate
        compile_what_answers(self._backend, beside=beside, exploration=exploration, rules=slate)
        one = Snapshot(self._backend)
        one.apply(_one_item())
        self._warm_up(one)

    def go_to(self, fd: int) -> int:
        """Read from a segment from now on; its number."""
        segment = Segment.attach(fd)
        self._snapshot.go_to(segment)
        segment.close_fd()
        if self._listener is not None:
            self._warm_up(self._snapshot)
        return segment.number

    def serve(self) -> str:
        """Begin to answer; the address.

        Raises:
            OSError: the address cannot be bound.
        """
        parts = Parts(
            settings=self._settings,
            loop=self._loop,
            snapshot=self._snapshot,
            rules=self._rules,
            vitals=self._vitals,
            metrics=self._metrics,
            health=self._health,
            gates=self._gates,
            exploration=self._exploration,
            shadows=self._shadows,
            awaited=None,
            version=self._version,
            clock_ms=self._clock_ms,
        )
        listener = self._listener = make_serving_listener(
            self._settings, self._gates, self._metrics, self._log, shared_port=True
        )
        add_callers_services(parts, listener)
        self._warm_up(self._snapshot)
        self._vitals.start()
        if self._shadows:
            self._shadows.start()
        listener.start(self._health, (RECOMMENDER, FEEDBACK))
        return listener.address

    def stop(self, grace_s: float) -> None:
        """Answer calls in flight for up to `grace_s`, and end."""
        self._health.stopping()
        if self._listener is not None:
            self._listener.begin_stop(grace_s).wait()
            self._listener.close()
        if self._shadows:
            self._shadows.stop()
        self._vitals.stop()
        self._loop.stop(grace_s=grace_s)

    def report(self) -> dict[str, Any]:
        """How it is doing, for the page of all processes."""
        return {
            "families": families_of(self._metrics.registry),
            "sample": asdict(self._vitals.sample()),
            "ready": self._health.ready,
        }

    def _make_exploration(self, board: Board, number: int) -> Exploration | None:
        settings, processes = self._settings, self._settings.server.processes
        exploration = make_exploration(
            settings,
            closed=self._snapshot,
            clock_ms=self._clock_ms,
            spending=SharedSpending(
                board,
                number,
                processes=processes,
                window_ms=budget_window_ms(settings),
                clock_ms=self._clock_ms,
            ),
            shown=SharedShowings(board, number, processes=processes),
        )
        if exploration is not None:
            self._metrics.registry.register(exploration)
        return exploration

    def _warm_up(self, snapshot: Snapshot) -> None:
        score_once(snapshot, mode=self._settings.policy.mode, rules=self._rules.current.slate)


def _one_item() -> Change:
    """All that is known of a graph of one item, to be scored before another is known."""
    graph = build_graph(
        version="warm-up", centroids=[], n_clusters=1, item_ids=["item"], edge_item=[0], edge_cluster=[0]
    )
    edge_rows, item_rows = np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int64)
    return Change(graph, np.zeros(1, np.int32), edge_rows, item_rows, 0, full=True)


def _make_loop(
    settings: Settings,
    snapshot: SharedSnapshot,
    board: Board,
    link: bytes | None,
    log: FilteringBoundLogger,
    *,
    backend: str,
) -> ReaderLoop:
    if link is not None:
        client = FeedbackClient(link)
        return ReaderLoop(
            impressions=client.offer_impressions,
            clicks=client.offer_clicks,
            close=lambda _: client.close(),
            snapshot=snapshot,
            board=board,
            backend=backend,
            queued=lambda: 0,  # the writer counts them
        )
    from server.kafka_producer import FeedbackProducer

    limits = settings.loop.limits()
    producer = FeedbackProducer(
        settings.kafka.bootstrap or "",
        names=settings.kafka.names(),
        max_queued_events=limits.max_queued_events,
        retry_after_ms=limits.retry_after_ms,
        log=log,
        security=settings.kafka.security(),
    )
    return ReaderLoop(
        impressions=producer.impressions,
        clicks=producer.clicks,
        close=lambda grace_s: producer.stop(grace_s=grace_s),
        snapshot=snapshot,
        board=board,
        backend=backend,
        queued=lambda: producer.queued_events,
    )

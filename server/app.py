"""The server as a whole: started in order, stopped in order.

Invariants: a start that fails leaves nothing running and says why in one sentence; the health is SERVING only while
scores are; a stop answers the calls in flight before the loop writes what it has accepted and closes the store.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from bandits.artifact import load_graph
from bandits.backend import choose_backend, serving_backend
from server.assembly import (
    Gates,
    Parts,
    add_callers_services,
    add_operations,
    make_awaited,
    make_click_topic,
    make_exploration,
    make_lane_watch,
    make_listeners,
    make_rules,
    make_shadows,
)
from server.collectors import StateCollector
from server.compile_beside import CompilingBeside
from server.forgetting_watch import ForgettingWatch
from server.graph_changes import GraphChanges
from server.graph_watch import GraphWatch
from server.health import FEEDBACK, OPERATIONS, RECOMMENDER, Health
from server.http import HttpServer
from server.item_places import ItemPlaces
from server.life_cycle import Exploration
from server.limits import SMALLEST_LOOP_GRACE_S
from server.listener import Listener
from server.logs import make_logger
from server.loops import LearnsElsewhere, Loop, make_loop
from server.metrics import Metrics
from server.pages import make_pages
from server.partitions_collector import PartitionsCollector
from server.sampling import Sampling
from server.settings import Settings, split_address
from server.shadow.awaited import AwaitedRewards
from server.shadow.collector import ShadowCollector, SlatesCollector
from server.shadow.shadows import Shadows
from server.snapshot import Parameters, Snapshot
from server.vitals import Vitals
from server.warm_up import compile_what_answers, score_once
from streams.corpus.item_place import ItemPlace
from streams.store import StoreError

if TYPE_CHECKING:
    from server.shadow.click_topic import ClickTopic


class StartError(RuntimeError):
    """The server cannot start; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Addresses:
    """Where the server listens, as host:port with the ports that were bound."""

    serving: str
    operations: str
    http: str


def unix_ms() -> int:
    """The time, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class App:
    """One server over one store; it is started and stopped once.

    Args:
        settings: all of them.
        clock_ms: Unix milliseconds; replaced in tests.

    Attributes:
        settings, version, metrics, health, snapshot: its parts.
        loop: what learns, once started.
    """

    def __init__(self, settings: Settings, *, clock_ms: Callable[[], int] = unix_ms) -> None:
        self.settings = settings
        self.version = installed_version("freshet")
        self.metrics = Metrics()
        self.health = Health()
        self._log = make_logger(settings.log.level, settings.log.format)
        self._backend = choose_backend(
            settings.backend,
            extended=settings.join.rule().extends_facts,
            gpu_crossover=settings.gpu_crossover,
            tell=lambda line: self._log.warning("gpu", reason=line),
        )
        self._serving = serving_backend(self._backend)
        self.snapshot = Snapshot(self._serving, lambda: self._rules.current.slate.policy)
        self.loop: Loop | None = None
        self._clock_ms = clock_ms
        self._rules = make_rules(settings)
        self._listeners: tuple[Listener, ...] = ()
        self._http: HttpServer | None = None
        self._vitals: Vitals | None = None
        self._watch: GraphWatch | None = None
        self._exploration: Exploration | None = None
        self._shadows: Shadows | None = None
        self._awaited: AwaitedRewards | None = None
        self._beside: CompilingBeside | None = None
        self._click_topic: ClickTopic | None = None
        self._addresses: Addresses | None = None
        self._stopping = threading.Lock()  # taken once, by the one who stops
        self._stopped = threading.Event()

    @property
    def addresses(self) -> Addresses:
        """Where the server listens.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._addresses is None:
            raise RuntimeError("the server has not been started")
        return self._addresses

    @property
    def graph_version(self) -> str | None:
        """Version of the graph served; None before one is."""
        parameters = self.snapshot.current
        return parameters.graph.version if parameters else None

    @property
    def failed(self) -> str | None:
        """Why learning has stopped, if it has."""
        return self.health.failed

    def start(self) -> None:
        """Bind the addresses, open the store, learn what is in its ledger, answer calls.

        Raises:
            StartError: an address is taken, or the store or the graph cannot be used.
        """
        try:
            self._start()
        except (StoreError, ValueError, OSError) as error:  # ValueError: a damaged graph, or another of its version
            self.stop(0)
            raise StartError(str(error)) from error
        except BaseException:
            self.stop(0)
            raise
        parameters = self.snapshot.current
        graph = parameters.graph.version if parameters else ""
        self._log.info("serving", **vars(self.addresses), graph=graph, version=self.version)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the server has been stopped; False if the time was over first."""
        return self._stopped.wait(timeout_s)

    def stop(self, grace_s: float) -> None:
        """Send callers elsewhere, answer calls in flight for up to `grace_s`, write what was accepted, close.

        Where another thread is stopping already, return at once; `wait` tells when it is done.
        """
        if not self._stopping.acquire(blocking=False):
            return
        deadline_s = time.monotonic() + grace_s
        started = self._addresses is not None
        if started:
            self._log.info("stopping", grace_s=grace_s)
        self.health.stopping()
        stopping = [listener.begin_stop(grace_s) for listener in self._listeners]
        for listener, finished in zip(self._listeners, stopping, strict=True):
            finished.wait()
            listener.close()
        if self._watch:
            self._watch.stop()
        if self._beside:
            self._beside.stop()
        if self._click_topic:
            self._click_topic.stop()
        if self._shadows:
            self._shadows.stop()
        if self._awaited:
            self._awaited.stop()
        if self._vitals:
            self._vitals.stop()
        if self.loop:
            self.loop.stop(grace_s=max(deadline_s - time.monotonic(), SMALLEST_LOOP_GRACE_S))
        if self._http:
            self._http.stop()
        self._stopped.set()
        if started:
            self._log.info("stopped")

    def _start(self) -> None:
        settings, gates = self.settings, Gates(self.settings)
        graph = load_graph(settings.graph) if settings.graph else None
        # 1. Addresses first: a taken port is found before the store is touched.
        serving, operating = self._listeners = make_listeners(settings, gates, self.metrics, self._log)
        self._http = HttpServer(split_address(settings.http_address))
        # 2. The loop: the store and what is in its ledger, or Kafka.
        forgetting = ForgettingWatch(self.snapshot.apply, log=self._log)
        self.metrics.registry.register(forgetting)
        self.loop = make_loop(
            settings,
            graph=graph,
            backend=self._backend,
            on_change=forgetting.apply,
            clock_ms=self._clock_ms,
            log=self._log,
        )
        # What learns is compiled while another process compiles what fills slates.
        beside = self._beside = CompilingBeside(self._serving)
        self.loop.start()
        # 3. What stands around it.
        exploration, looks = self._make_exploration()
        self._exploration = exploration
        sampling = Sampling(
            snapshot=self.snapshot, rules=self._rules, health=self.health, log=self._log, looks=looks
        )
        vitals = Vitals(loop=self.loop, snapshot=self.snapshot, metrics=self.metrics, on_sample=sampling.take)
        tower = ItemPlace.load(settings.item_tower) if settings.item_tower else None
        changes = GraphChanges(
            self.loop, graph_dir=settings.graph_dir, places=ItemPlaces(tower), clock_ms=self._clock_ms
        )
        self._watch = self._make_watch(changes)
        self._shadows = shadows = self._make_shadows()
        self._click_topic = make_click_topic(settings, self._awaited, self._log)
        parts = Parts(
            settings=settings,
            loop=self.loop,
            snapshot=self.snapshot,
            rules=self._rules,
            vitals=vitals,
            metrics=self.metrics,
            health=self.health,
            gates=gates,
            exploration=self._exploration,
            shadows=shadows,
            awaited=self._awaited,
            version=self.version,
            clock_ms=self._clock_ms,
        )
        add_callers_services(parts, serving)
        add_operations(
            parts, operating, changes=changes, refusal=lambda: self._watch.refusal if self._watch else ""
        )
        self.metrics.registry.register(StateCollector(vitals.sample, gates=gates.all(), version=self.version))
        if isinstance(self.loop, LearnsElsewhere):
            self.metrics.registry.register(PartitionsCollector(self.loop.graph_partitions))
        self._warm_up(beside)
        # 4. Callers: the health first, so that whoever gets through is told the truth.
        self._vitals = vitals
        vitals.start()
        if self._watch:
            self._watch.start()
        if shadows:
            shadows.start()
        if self._awaited:
            self._awaited.start()
        if self._click_topic:
            self._click_topic.start()
        serving.start(self.health, (RECOMMENDER, FEEDBACK))
        operating.start(self.health, (OPERATIONS,))
        self._http.start(
            make_pages(
                registry=self.metrics.registry,
                health=self.health,
                vitals=vitals,
                version=self.version,
                policy_name=parts.policy_name,
                shadows=self._awaited.standings if self._awaited else list,
            )
        )
        host, port = self._http.address
        self._addresses = Addresses(serving.address, operating.address, f"{host}:{port}")

    def _make_watch(self, changes: GraphChanges) -> GraphWatch | None:
        settings, loop = self.settings, self.loop
        if not settings.graph_watch_s or settings.graph_dir is None or loop is None or settings.kafka.bootstrap:
            return None  # on Kafka the loop follows the workers
        return GraphWatch(
            settings.graph_dir,
            interval_s=settings.graph_watch_s,
            changes=changes,
            seen=loop.has_graph,
            metrics=self.metrics,
            log=self._log,
        )

    def _make_exploration(self) -> tuple[Exploration | None, list[Callable[[Parameters], None]]]:
        """What bounds exploration, and what looks at the parameters for it."""
        watch = make_lane_watch(self.settings, clock_ms=self._clock_ms)
        exploration = make_exploration(self.settings, closed=watch, clock_ms=self._clock_ms)
        if watch is None or exploration is None:
            return None, []
        self.metrics.registry.register(watch)
        self.metrics.registry.register(exploration)
        return exploration, [exploration.look, watch.look]

    def _make_shadows(self) -> Shadows | None:
        awaited = self._awaited = make_awaited(self.settings, clock_ms=self._clock_ms, log=self._log)
        shadows = make_shadows(self.settings, self._rules, awaiting=awaited, clock_ms=self._clock_ms, log=self._log)
        if shadows and awaited:
            self.metrics.registry.register(ShadowCollector(awaited))
            self.metrics.registry.register(SlatesCollector(shadows.outcomes))
        return shadows

    def _warm_up(self, beside: CompilingBeside) -> None:
        """Score once, so that what is compiled or cached on first use is not paid for by the first caller."""
        rules = self._rules.current.slate
        compile_what_answers(self._serving, beside=beside, exploration=self._exploration, rules=rules)
        parameters = self.snapshot.current
        if parameters is not None:
            self._rules.follow(parameters)
        score_once(self.snapshot, mode=self.settings.policy.mode, rules=self._rules.current.slate)

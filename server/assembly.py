"""From settings to the parts of the server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from freshet.v1 import feedback_pb2_grpc, operations_pb2_grpc, recommender_pb2_grpc
from server.budget_windows import Budgets, OwnSpending, Spending
from server.durable import DurableFeedback
from server.feedback import FeedbackService
from server.gate import Gate
from server.graph_changes import GraphChanges
from server.health import FEEDBACK, OPERATIONS, RECOMMENDER, Health
from server.interceptor import ServiceRules
from server.lane_watch import ClosedClusters, LaneWatch
from server.life_cycle import Exploration
from server.limits import FIRST_HOLD_MS
from server.listener import SPARE_THREADS, Listener
from server.loops import Loop
from server.metrics import Metrics
from server.operations import CHANGES, OperationsService
from server.recommender import ContextRules, RecommenderService
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.settings import Settings
from server.shadow.awaited import AwaitedRewards, Awaiting
from server.shadow.policies import ShadowPolicy
from server.shadow.shadows import Shadows
from server.snapshot import Snapshot
from server.tls import server_credentials
from server.vitals import Vitals

if TYPE_CHECKING:
    from bandits.graph import Bool, Graph
    from server.first_impressions import ShownElsewhere
    from server.packed.packed_slates import PackedSlates
    from server.shadow.click_topic import ClickTopic


@dataclass(frozen=True, eq=False)
class Parts:
    """What the services share.

    Attributes:
        settings: all of them.
        loop: learns.
        snapshot: the parameters served.
        rules: the scoring rules in force.
        vitals: how the server is doing.
        metrics: where everything is counted.
        health: what is served.
        gates: admission.
        exploration: bounds it; None = nothing does.
        shadows: policies that are only looked at; None = there are none.
        awaited: where their slates wait for clicks; None = in no process, or in another.
        version: release of the server.
        clock_ms: Unix milliseconds.
    """

    settings: Settings
    loop: Loop
    snapshot: Snapshot
    rules: RulesInForce
    vitals: Vitals
    metrics: Metrics
    health: Health
    gates: "Gates"
    exploration: Exploration | None
    shadows: Shadows | None
    awaited: AwaitedRewards | None
    version: str
    clock_ms: Callable[[], int]

    def policy_name(self) -> str:
        """Name of the default policy, as replies state it."""
        return self.rules.current.names[self.settings.policy.mode]


class Gates:
    """The places of each kind of call.

    Calls that wait for the disk have places of their own, fewer than there are threads, so that scoring goes on
    when the disk is slow.
    """

    def __init__(self, settings: Settings) -> None:
        rpc = settings.rpc
        retry_after_ms = rpc.retry_after_ms
        self.score = Gate("score", places=rpc.score_in_flight, retry_after_ms=retry_after_ms)
        half = max(1, rpc.score_in_flight // 2)
        self.recording = Gate("recorded_score", places=half, retry_after_ms=retry_after_ms)
        self.feedback = Gate("feedback", places=rpc.feedback_in_flight, retry_after_ms=retry_after_ms)
        self.streams = Gate("stream", places=rpc.streams_in_flight, retry_after_ms=retry_after_ms)
        self.operations = Gate("operations", places=rpc.operations_in_flight, retry_after_ms=retry_after_ms)

    def all(self) -> tuple[Gate, ...]:
        """Every gate."""
        return self.score, self.recording, self.feedback, self.streams, self.operations


def make_rules(settings: Settings) -> RulesInForce:
    """The scoring rules that the settings ask for."""
    policy, slate = settings.policy, settings.slate
    rules = SlateRules(policy.settings(), slate.top_m, slate.explore_share, slate.propensity_draws)
    return RulesInForce(rules, fit_prior=policy.beta_prior is None, fit_pooled_mean=policy.pooled_mean is None)


def make_lane_watch(
    settings: Settings, *, clock_ms: Callable[[], int], tell: "Callable[[Graph, Bool], None] | None" = None
) -> LaneWatch | None:
    """What looks at all items, where the settings have a life cycle; `tell` as it takes it."""
    group = settings.life_cycle
    return LaneWatch(group.rules(), clock_ms=clock_ms, tell=tell) if group.is_set else None


def make_exploration(
    settings: Settings,
    *,
    closed: ClosedClusters | None,
    clock_ms: Callable[[], int],
    spending: Spending | None = None,
    shown: "ShownElsewhere | None" = None,
) -> Exploration | None:
    """The bounds of exploration that the settings ask for.

    Args:
        settings: all of them.
        closed: clusters that have had theirs; None where nothing bounds exploration.
        clock_ms: Unix milliseconds.
        spending: of budgets; None = of this process alone.
        shown: what other processes show; None = there are none.
    """
    group, join = settings.life_cycle, settings.join
    if not group.is_set or closed is None:
        return None
    window_ms = budget_window_ms(settings)
    # At the close of its window an impression counts, and not before.
    hold_ms = FIRST_HOLD_MS + (join.window_ms if join.resolution == "at_close" else 0)
    return Exploration(
        group.rules(),
        Budgets(items=group.budgets, window_ms=window_ms),
        spending=spending or OwnSpending(window_ms=window_ms, clock_ms=clock_ms),
        closed=closed,
        hold_ms=hold_ms,
        clock_ms=clock_ms,
        shown=shown,
    )


def budget_window_ms(settings: Settings) -> int:
    """Length of the windows of budgets."""
    return round(settings.life_cycle.budget_window_s * 1e3)


def make_awaited(
    settings: Settings, *, clock_ms: Callable[[], int], log: FilteringBoundLogger
) -> AwaitedRewards | None:
    """Where shadowed slates wait for rewards; None where there are no shadow policies."""
    group = settings.shadow
    if not group.policies:
        return None
    return AwaitedRewards(
        [policy.name for policy in group.policies],
        rule=settings.join.rule(),
        max_pending=group.max_pending,
        window_ms=group.window_ms or settings.join.window_ms,
        clock_ms=clock_ms,
        log=log,
    )


def make_shadows(
    settings: Settings,
    rules: RulesInForce,
    *,
    awaiting: Awaiting | None,
    clock_ms: Callable[[], int],
    log: FilteringBoundLogger,
) -> Shadows | None:
    """The shadow policies that the settings ask for, whose slates wait where they are told to."""
    group = settings.shadow
    if not group.policies or awaiting is None:
        return None
    policies = [
        ShadowPolicy(
            shadow.name,
            mode=shadow.policy.get("mode", settings.policy.mode),
            policy={name: value for name, value in shadow.policy.items() if name != "mode" and value is not None},
            slate=shadow.slate,
        )
        for shadow in group.policies
    ]
    return Shadows(
        policies,
        rules=rules,
        share=group.share,
        awaiting=awaiting,
        clock_ms=clock_ms,
        log=log,
    )


def make_click_topic(
    settings: Settings, awaited: AwaitedRewards | None, log: FilteringBoundLogger
) -> "ClickTopic | None":
    """What brings the shadows the clicks of a whole deployment; None where there are no shadows, or no Kafka."""
    if awaited is None or settings.kafka.bootstrap is None:
        return None
    from server.shadow.click_topic import ClickTopic

    return ClickTopic(
        settings.kafka.bootstrap,
        topic=settings.kafka.names().clicks,
        rule=settings.join.rule(),
        on_clicks=awaited.clicked,
        on_passed_over=awaited.passed_over,
        log=log,
        security=settings.kafka.security(),
    )


def make_listeners(
    settings: Settings, gates: Gates, metrics: Metrics, log: FilteringBoundLogger
) -> tuple[Listener, Listener]:
    """The callers' listener and the operators', bound but not started.

    Raises:
        OSError: an address is taken.
    """
    serving = make_serving_listener(settings, gates, metrics, log)
    try:
        return serving, make_operating_listener(settings, gates, metrics, log)
    except OSError:
        serving.begin_stop(0)
        raise


def make_serving_listener(
    settings: Settings, gates: Gates, metrics: Metrics, log: FilteringBoundLogger, *, shared_port: bool = False
) -> Listener:
    """The callers' listener, bound but not started.

    Raises:
        OSError: the address is taken, or a certificate cannot be used.
    """
    rpc = settings.rpc
    feedback_threads = ThreadPoolExecutor(
        rpc.feedback_in_flight + SPARE_THREADS, thread_name_prefix="freshet-feedback"
    )
    stream_threads = ThreadPoolExecutor(rpc.streams_in_flight + SPARE_THREADS, thread_name_prefix="freshet-stream")
    recommending = ServiceRules(gates.score, stream_gate=gates.streams, stream_pool=stream_threads)
    return Listener(
        settings.address,
        rules={RECOMMENDER: recommending, FEEDBACK: ServiceRules(gates.feedback, feedback_threads)},
        threads=rpc.score_in_flight,
        max_concurrent=rpc.max_concurrent,
        max_message_bytes=rpc.max_message_bytes,
        metrics=metrics,
        log=log,
        shared_port=shared_port,
        credentials=server_credentials(settings.server, log),
    )


def make_operating_listener(
    settings: Settings, gates: Gates, metrics: Metrics, log: FilteringBoundLogger
) -> Listener:
    """The operators' listener, bound but not started; raises as the callers'."""
    rpc = settings.rpc
    return Listener(
        settings.operations_address,
        rules={OPERATIONS: ServiceRules(gates.operations, logged=CHANGES)},
        threads=rpc.operations_in_flight,
        max_concurrent=rpc.max_concurrent,
        max_message_bytes=rpc.max_message_bytes,
        metrics=metrics,
        log=log,
        credentials=server_credentials(settings.server, log),
    )


def add_callers_services(parts: Parts, serving: Listener) -> None:
    """Put what callers call behind their listener."""
    settings = parts.settings
    durable = DurableFeedback(
        parts.loop,
        longest_wait_s=settings.rpc.longest_wait_ms / 1e3,
        metrics=parts.metrics,
        on_failure=parts.health.loop_failed,
    )
    recommender = RecommenderService(
        snapshot=parts.snapshot,
        rules=parts.rules,
        context_rules=ContextRules(settings.context.k, settings.context.temperature),
        default_mode=settings.policy.mode,
        durable=durable,
        recording=parts.gates.recording,
        metrics=parts.metrics,
        clock_ms=parts.clock_ms,
        exploration=parts.exploration,
        packed=_packed_slates(parts),
        shadows=parts.shadows,
    )
    if settings.backend != "numpy" and not (parts.exploration and parts.exploration.closes_lane):
        from server.lane.score_lane import ScoreLane

        lane = ScoreLane(
            snapshot=parts.snapshot,
            rules=parts.rules,
            k=settings.context.k,
            temperature=settings.context.temperature,
            default_mode=settings.policy.mode,
            metrics=parts.metrics,
            shadows=parts.shadows,
            exploration=parts.exploration,
        )
        serving.short_ways[f"/{RECOMMENDER}/Score"] = lane.score
    feedback = FeedbackService(
        durable=durable,
        rule=settings.join.rule(),
        metrics=parts.metrics,
        clock_ms=parts.clock_ms,
        # On Kafka the shadows read the topic, as other servers and producers have clicks too.
        on_clicks=parts.awaited.clicked if parts.awaited and not settings.kafka.bootstrap else None,
    )
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(recommender, serving.server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, serving.server)


def add_operations(parts: Parts, operating: Listener, *, changes: GraphChanges, refusal: Callable[[], str]) -> None:
    """Put what operators call behind their listener.

    Args:
        parts: of the server.
        operating: the listener.
        changes: of the graph.
        refusal: why the latest artifact in the watched directory was refused.
    """
    operations = OperationsService(
        loop=parts.loop,
        snapshot=parts.snapshot,
        changes=changes,
        refusal=refusal,
        vitals=parts.vitals,
        version=parts.version,
        plumbing="kafka" if parts.settings.kafka.bootstrap else "embedded",
        policy_name=parts.policy_name,
    )
    operations_pb2_grpc.add_OperationsServiceServicer_to_server(operations, operating.server)


def _packed_slates(parts: Parts) -> Callable[[], "PackedSlates"]:
    """Makes what fills packed slates when it is asked for: without packed calls nobody needs its loops."""

    @cache
    def make() -> "PackedSlates":
        from server.packed.packed_slates import PackedSlates

        settings = parts.settings
        return PackedSlates(
            snapshot=parts.snapshot,
            rules=parts.rules,
            k=settings.context.k,
            temperature=settings.context.temperature,
            default_mode=settings.policy.mode,
            metrics=parts.metrics,
            shadows=parts.shadows,
            exploration=parts.exploration,
        )

    return make

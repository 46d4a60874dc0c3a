"""Simulated users over gRPC: each asks for a slate, looks at it, clicks or not, and reports.

Invariants: calls are paced and never catch up on what was missed, so that a slow server is asked less, not more;
every shown slate is reported, every click once; a call that fails is counted, and nothing is sent twice.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from bandits.simulator.delays import Lognormal
from freshet.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.channels import ClientTls, open_channel
from server.demo.scene import SLATE_SIZE
from server.demo.surroundings import Outcome, Surroundings
from server.demo.tally import Batch, Tally
from server.limits import SENT_INFINITY

THREADS = 2
BATCH = 10  # users of a thread whose feedback travels together
_CALL_DEADLINE_S = 10.0
DELAY_DEVIATION, LONGEST_DELAY = 1.0, 10.0  # of the logarithm; times the median
_FAILURES_TO_GIVE_UP = 20  # in a row
# A server that stops turns calls away unprocessed, with either code; feedback counts once however often it is sent.
RETRY_WHAT_IS_TURNED_AWAY = (
    '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s",'
    ' "maxBackoff": "0.2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}]}'
)
_PAUSE_AFTER_FAILURE_S = 0.05
_SURFACE = "simulated"

Reply = recommender_pb2.RecommendResponse
Answer = feedback_pb2.LogImpressionsResponse | feedback_pb2.LogClicksResponse


@dataclass(frozen=True)
class Habits:
    """How simulated users behave.

    Attributes:
        users: how many there are.
        slates_per_s: how many slates they ask for a second, all together.
        delay_ms: median time from impression to click; 0 = at once. Lognormal, at most ten times the median.
        mode: number of the mode to ask for, 0 = the server's.
        seed: of who comes when and clicks what.
    """

    users: int = 2_000
    slates_per_s: float = 300.0
    delay_ms: float = 0.0
    mode: "events_pb2.Mode.ValueType" = events_pb2.MODE_UNSPECIFIED
    seed: int = 0


class Crowd:
    """All simulated users of a run.

    Args:
        address: of the server, host:port.
        scene: where they live.
        habits: how they behave.
        tally: what they see is added to.
        tls: what they connect with; None = plain text.
    """

    def __init__(
        self, address: str, scene: Surroundings, habits: Habits, tally: Tally, tls: ClientTls | None = None
    ) -> None:
        self._stop = threading.Event()
        self._channel = open_channel(address, tls, options=[("grpc.service_config", RETRY_WHAT_IS_TURNED_AWAY)])
        self._lanes = [_Lane(number, self._channel, scene, habits, tally, self._stop) for number in range(THREADS)]
        self._threads = [
            threading.Thread(target=lane.run, daemon=True, name="freshet-users") for lane in self._lanes
        ]

    def start(self) -> None:
        """Let them come."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let nobody come any more, and wait for the calls in flight."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    @property
    def clicks_on_the_way(self) -> int:
        """Clicks that users made and that were still delayed when they were stopped."""
        return sum(len(lane.waiting) for lane in self._lanes)

    @property
    def failure(self) -> str | None:
        """Why the users gave up, if they did."""
        return next((lane.failure for lane in self._lanes if lane.failure), None)


class _Lane:
    """The users of one thread."""

    def __init__(
        self,
        number: int,
        channel: grpc.Channel,
        scene: Surroundings,
        habits: Habits,
        tally: Tally,
        stop: threading.Event,
    ) -> None:
        self._number = number
        self._recommend = recommender_pb2_grpc.RecommenderServiceStub(channel).Recommend
        feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self._log_impressions, self._log_clicks = feedback.LogImpressions, feedback.LogClicks
        self._scene, self._habits, self._tally, self._stop = scene, habits, tally, stop
        self._rng = np.random.default_rng([habits.seed, 2, number])
        self._people = scene.people(habits.seed, habits.users)
        self._delay = Lognormal(
            median=habits.delay_ms, deviation=DELAY_DEVIATION, cap=LONGEST_DELAY * habits.delay_ms
        )
        self._requests = self._clicks = 0
        self._failures = 0
        self._latencies_s: list[float] = []
        self._position = -1  # highest that a reply stated
        self._sent_at_s: float | None = None  # when feedback was sent that no reply has been computed from yet
        self.waiting: list[tuple[float, int, events_pb2.Click]] = []  # by due time
        self.failure: str | None = None

    def run(self) -> None:
        """Serve users in batches until stopped."""
        period_s = BATCH * THREADS / self._habits.slates_per_s
        began_s = time.monotonic()
        next_s = began_s + period_s * self._number / THREADS  # the lanes take turns
        self._stop.wait(next_s - began_s)
        while not self._stop.is_set() and not self.failure:
            next_s = max(next_s + period_s, time.monotonic())
            who = self._rng.integers(0, self._habits.users, BATCH).tolist()
            replies = [(user, reply) for user in who if (reply := self._ask(user)) is not None]
            outcome = self._show(replies, step=time.monotonic() - began_s) if replies else None
            self._stop.wait(max(0.0, next_s - time.monotonic()))  # they look at their slates
            self._report([reply for _, reply in replies], outcome)

    def _ask(self, user: int) -> Reply | None:
        request = recommender_pb2.RecommendRequest(
            request_id=f"{self._habits.seed}-{self._number}-{self._requests}-{time.time_ns():x}",
            user_embedding=events_pb2.Embedding(values=self._people.embeddings[user]),
            slate_size=SLATE_SIZE,
            mode=self._habits.mode,
            surface=_SURFACE,
            user_key=f"user-{user}",
        )
        self._requests += 1
        asked_s = time.monotonic()
        reply: Reply | None = self._call(self._recommend, request)
        if reply is None:
            return None
        answered_s = time.monotonic()
        self._latencies_s.append(answered_s - asked_s)
        position = sum(reply.parameters_position)
        if self._sent_at_s is not None and position > self._position:
            self._tally.fresh(answered_s - self._sent_at_s)
            self._sent_at_s = None
        self._position = max(self._position, position)
        return reply

    def _show(self, replies: Sequence[tuple[int, Reply]], *, step: float) -> Outcome | None:
        slates = [[item.item_id for item in reply.items] for _, reply in replies]
        for item_ids, (_, reply) in zip(slates, replies, strict=True):
            self.failure = self._scene.stranger(reply.graph_version, item_ids)
            if not self.failure and len(item_ids) != SLATE_SIZE:
                self.failure = f"expected slates of {SLATE_SIZE} items, got {len(item_ids)}: more items a cluster?"
            if self.failure:
                return None
        shown = [self._scene.numbers(item_ids) for item_ids in slates]
        who = np.array([user for user, _ in replies])
        outcome = self._scene.react(self._people, who, np.array(shown), self._rng, step=step)
        items = [item for _, reply in replies for item in reply.items]
        batch = Batch(
            at_s=step,
            slates=len(replies),
            clicks=int(outcome.clicked.sum()),
            expected=float(outcome.expected.sum()),
            uniform=float(outcome.uniform.sum()),
            best=float(outcome.best.sum()),
            slots=len(items),
            explored=sum(item.explored or item.width >= SENT_INFINITY for item in items),
            position=self._position,
        )
        self._tally.policy, self._tally.graph_version = replies[-1][1].policy, replies[-1][1].graph_version
        self._tally.slates(batch, self._latencies_s)
        self._latencies_s = []
        return outcome

    def _report(self, replies: Sequence[Reply], outcome: Outcome | None) -> None:
        """Send what was shown, and the clicks that are due."""
        sent_at_s = time.monotonic()
        if outcome is not None:
            request = feedback_pb2.LogImpressionsRequest(impressions=[_impression(reply) for reply in replies])
            answer = self._call(self._log_impressions, request)
            if answer is not None:
                self._count(answer, impressions=answer.accepted * SLATE_SIZE)
            delays_ms = self._delay.draw(self._rng.random(outcome.clicked.shape))
            for slate, place in np.argwhere(outcome.clicked).tolist():
                reply = replies[slate]
                click = events_pb2.Click(request_id=reply.request_id, item_id=reply.items[place].item_id)
                due_s = sent_at_s + delays_ms[slate, place] / 1e3
                heapq.heappush(self.waiting, (due_s, self._position_in_line(), click))
        due = []
        while self.waiting and self.waiting[0][0] <= sent_at_s:
            due.append(heapq.heappop(self.waiting)[2])
        if due:
            answer = self._call(self._log_clicks, feedback_pb2.LogClicksRequest(clicks=due))
            if answer is not None:
                self._count(answer, clicks=answer.accepted)
        if due or outcome is not None:
            self._sent_at_s = sent_at_s

    def _position_in_line(self) -> int:
        self._clicks += 1
        return self._clicks

    def _count(self, answer: Answer, *, impressions: int = 0, clicks: int = 0) -> None:
        self._tally.feedback(impressions=impressions, clicks=clicks)
        for refused in answer.refused:
            self._tally.error(f"refused: {refused.status.message}")

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        """The answer, or None if the call failed; too many failures in a row end the lane."""
        try:
            answer = method(request, timeout=_CALL_DEADLINE_S)
        except grpc.RpcError as error:
            message = f"{error.code().name}: {error.details()}"
            self._tally.error(message)
            self._failures += 1
            if self._failures >= _FAILURES_TO_GIVE_UP:
                self.failure = f"{_FAILURES_TO_GIVE_UP} calls in a row failed, the last with {message}"
            self._stop.wait(_PAUSE_AFTER_FAILURE_S)
            return None
        self._failures = 0
        return answer


def _impression(reply: Reply) -> events_pb2.Impression:
    """The impression of a slate that was shown as it was answered."""
    items = [
        events_pb2.ShownItem(item_id=item.item_id, position=item.position, propensity=item.propensity)
        for item in reply.items
    ]
    return events_pb2.Impression(
        request_id=reply.request_id,
        occurred_at_ms=time.time_ns() // 1_000_000,
        context=reply.context,
        items=items,
        policy=reply.policy,
        mode=reply.mode,
        graph_version=reply.graph_version,
        surface=_SURFACE,
    )

"""Too much is refused at once with advice, and one kind of call cannot starve another."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from freshet.v1 import operations_pb2
from server.app import App
from server.durable import DurableFeedback
from server.errors import Refused
from server.health import FEEDBACK, RECOMMENDER
from server.interceptor import refuse_if_expired
from server.metrics import Metrics
from streams.change import Change
from streams.embedded import LoopFailed
from tests.server.messages import (
    DEADLINE_S,
    click,
    clicks,
    impression,
    impressions,
    refusal,
    retry_delay_ms,
    score_request,
)
from tests.server.serving import Client, make_settings, until


class SlowDisk:
    """Holds the writer back in the middle of a commit until it is let go."""

    def __init__(self, app: App) -> None:
        self._apply = app.snapshot.apply
        self._free = threading.Event()
        self._free.set()
        self.reached = threading.Event()
        app.snapshot.apply = self.apply  # type: ignore[method-assign]

    def apply(self, change: Change) -> None:
        self.reached.set()
        assert self._free.wait(DEADLINE_S)
        self._apply(change)

    def stall(self) -> None:
        self.reached.clear()
        self._free.clear()

    def go_on(self) -> None:
        self._free.set()


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[App, Client, SlowDisk]]:
    """A server with few places and a short queue, whose writer stands still."""
    rpc = {"feedback_in_flight": 3, "score_in_flight": 4, "retry_after_ms": 70}
    app = App(make_settings(tmp_path, rpc=rpc, loop={"max_queued_events": 2, "retry_after_ms": 300}))
    disk = SlowDisk(app)
    app.start()
    client = Client(app)
    disk.stall()
    yield app, client, disk
    disk.go_on()
    client.close()
    app.stop(5.0)


def stuck_impression(client: Client, disk: SlowDisk) -> Any:
    """A call whose event the writer holds in its hands."""
    call = client.feedback.LogImpressions.future(impressions(impression("stuck", "item-0")), timeout=DEADLINE_S)
    assert disk.reached.wait(DEADLINE_S)
    return call


def queued(app: App) -> int:
    assert app.loop is not None
    return app.loop.status().queued_events


def test_a_full_queue_answers_with_the_time_to_wait(stalled: tuple[App, Client, SlowDisk]) -> None:
    """RESOURCE_EXHAUSTED with the loop's RetryInfo; nothing of the call was accepted, and later it is."""
    app, client, disk = stalled
    stuck = stuck_impression(client, disk)
    waiting = client.feedback.LogClicks.future(clicks(click("r", "a"), click("r", "b")), timeout=DEADLINE_S)
    until(lambda: queued(app) == 2)
    code, status = refusal(client.feedback.LogClicks, clicks(click("stuck", "item-0")))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_delay_ms(status) == 300
    disk.go_on()
    assert (stuck.result().accepted, waiting.result().accepted) == (1, 2)
    assert client.feedback.LogClicks(clicks(click("stuck", "item-0")), timeout=DEADLINE_S).accepted == 1
    counts = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S).counts
    assert counts["clicks_joined"] == 1


def test_waiting_feedback_leaves_room_for_scores(stalled: tuple[App, Client, SlowDisk]) -> None:
    """With all places of feedback taken, more of it is refused at once, and scores are answered."""
    app, client, disk = stalled
    waiting = [stuck_impression(client, disk)]
    waiting += [
        client.feedback.LogClicks.future(clicks(click("r", item_id)), timeout=DEADLINE_S) for item_id in "ab"
    ]

    until(lambda: queued(app) == 2)
    code, status = refusal(client.feedback.LogClicks, clicks(click("r", "c")))
    assert (code, retry_delay_ms(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 70)
    for _ in range(20):
        assert client.recommender.Score(score_request(), timeout=DEADLINE_S).items
    disk.go_on()
    assert [call.result().accepted for call in waiting] == [1, 1, 1]


def test_scores_that_wait_for_their_impression_leave_room_for_others(
    stalled: tuple[App, Client, SlowDisk],
) -> None:
    """Only half of the places of scores may wait for the disk."""
    app, client, disk = stalled
    recorded = score_request("item-0", log_impression=True)
    waiting = [client.recommender.Score.future(recorded, timeout=DEADLINE_S)]
    assert disk.reached.wait(DEADLINE_S)
    waiting.append(client.recommender.Score.future(recorded, timeout=DEADLINE_S))

    until(lambda: queued(app) == 1)
    code, status = refusal(client.recommender.Score, recorded)
    assert (code, retry_delay_ms(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 70)
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).items
    disk.go_on()
    assert [len(call.result().items) for call in waiting] == [1, 1]


def test_a_deadline_ends_the_wait_and_not_the_event(stalled: tuple[App, Client, SlowDisk]) -> None:
    """DEADLINE_EXCEEDED while the writer is busy; what was accepted counts once, however often it is sent."""
    _, client, disk = stalled
    request = impressions(impression("r", "item-0"))
    for _ in range(2):
        assert refusal(client.feedback.LogImpressions, request, timeout=0.2)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    disk.go_on()
    assert client.feedback.LogImpressions(request, timeout=DEADLINE_S).accepted == 1
    counts = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S).counts
    assert counts["impressions_accepted"] == 1


def test_a_caller_without_a_deadline_does_not_wait_for_ever(tmp_path: Path) -> None:
    """The server's own bound ends the wait."""
    app = App(make_settings(tmp_path, rpc={"longest_wait_ms": 100}))
    disk = SlowDisk(app)
    app.start()
    client = Client(app)
    disk.stall()
    with pytest.raises(grpc.RpcError) as error:
        client.feedback.LogClicks(clicks(click("r", "a")))
    disk.go_on()
    client.close()
    app.stop(5.0)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stopped_loop_is_told_and_scores_go_on(tmp_path: Path) -> None:
    """UNAVAILABLE with the reason, feedback NOT_SERVING, the recommender SERVING from its last snapshot (I10)."""
    app = App(make_settings(tmp_path))
    apply = app.snapshot.apply
    broken = threading.Event()

    def fail(change: Change) -> None:
        if broken.is_set():
            raise OSError(28, "No space left on device")
        apply(change)

    app.snapshot.apply = fail  # type: ignore[method-assign]
    app.start()
    client = Client(app)
    broken.set()
    request = impressions(impression("r", "item-0"))
    for _ in range(2):
        code, status = refusal(client.feedback.LogImpressions, request)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "No space left on device" in status.message or "No space left on device" in str(app.health.failed)
    health = health_pb2_grpc.HealthStub(client.serving)
    states = {
        service: health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S).status
        for service in (FEEDBACK, RECOMMENDER)
    }
    assert states == {
        FEEDBACK: health_pb2.HealthCheckResponse.NOT_SERVING,
        RECOMMENDER: health_pb2.HealthCheckResponse.SERVING,
    }
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).items
    status_ = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    assert (status_.graph_version, status_.state_hash) == ("v1", "")
    code, _ = refusal(client.operations.FreezeLearning, operations_pb2.FreezeLearningRequest(frozen=True))
    assert code is grpc.StatusCode.UNAVAILABLE
    client.close()
    app.stop(5.0)


class OneCall:
    """The context of a call with a deadline of its own."""

    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s


@pytest.mark.parametrize("remaining_s", [0.0, -1.0, 0.05])
def test_the_wait_never_outlasts_the_deadline(remaining_s: float) -> None:
    """A future that is never done is given up when the caller's time is over, not later."""

    class NeverDone:
        def offer_clicks(self, batch: Any) -> "Future[None]":
            return Future()

        offer_impressions = offer_clicks

    durable = DurableFeedback(NeverDone(), longest_wait_s=60, metrics=Metrics(), on_failure=lambda _: None)
    with pytest.raises(Refused) as refused:
        durable.clicks(clicks(), OneCall(remaining_s))  # type: ignore[arg-type]
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("remaining_s", [0.0, -1.0])
def test_work_for_an_expired_caller_is_not_begun(remaining_s: float) -> None:
    """A call that waited for a thread until its time was over costs no more."""
    with pytest.raises(Refused) as refused:
        refuse_if_expired(OneCall(remaining_s))  # type: ignore[arg-type]
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    refuse_if_expired(OneCall(0.1))  # type: ignore[arg-type]
    refuse_if_expired(OneCall(None))  # type: ignore[arg-type]


def test_a_failure_while_waiting_is_told_as_one_at_once() -> None:
    """The loop may stop between taking an event and writing it."""
    failures: list[str] = []

    class FailsLater:
        def offer_clicks(self, batch: Any) -> "Future[None]":
            future: Future[None] = Future()
            future.set_exception(LoopFailed("disk gone"))
            return future

        offer_impressions = offer_clicks

    durable = DurableFeedback(FailsLater(), longest_wait_s=60, metrics=Metrics(), on_failure=failures.append)
    with pytest.raises(Refused, match="learning has stopped: disk gone") as refused:
        durable.clicks(clicks(), OneCall(None))  # type: ignore[arg-type]
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    assert failures == ["disk gone"]

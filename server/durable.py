"""Feedback handed to the loop, and the wait until it is durable.

Invariant: a call returns only once its events are on disk and in the snapshot, or raises a refusal that says
whether to send them again. No wait outlasts the caller's deadline, nor `longest_wait_s` where there is none.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import grpc

from freshet.v1 import events_pb2
from server.errors import Refused, full
from server.metrics import Metrics
from streams.embedded import LoopFailed, QueueFull


class FeedbackSink(Protocol):
    """What takes feedback: the embedded loop."""

    def offer_impressions(self, batch: events_pb2.ImpressionBatch) -> Future[None]:
        """Take impressions; done when durable."""

    def offer_clicks(self, batch: events_pb2.ClickBatch) -> Future[None]:
        """Take clicks; done when durable."""


class DurableFeedback:
    """Waits for the loop on behalf of a call.

    Args:
        loop: takes the events.
        longest_wait_s: for callers without a deadline.
        metrics: where the delay is counted.
        on_failure: called when the loop says that it has stopped.
    """

    def __init__(
        self, loop: FeedbackSink, *, longest_wait_s: float, metrics: Metrics, on_failure: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._longest_wait_s = longest_wait_s
        self._metrics = metrics
        self._on_failure = on_failure

    def impressions(self, batch: events_pb2.ImpressionBatch, context: grpc.ServicerContext) -> None:
        """Make impressions durable.

        Raises:
            Refused: RESOURCE_EXHAUSTED (nothing was accepted), DEADLINE_EXCEEDED or UNAVAILABLE.
        """
        self._wait(lambda: self._loop.offer_impressions(batch), context)

    def clicks(self, batch: events_pb2.ClickBatch, context: grpc.ServicerContext) -> None:
        """Make clicks durable; raises as `impressions`."""
        self._wait(lambda: self._loop.offer_clicks(batch), context)

    def _wait(self, offer: Callable[[], Future[None]], context: grpc.ServicerContext) -> None:
        started = time.perf_counter()
        remaining = context.time_remaining()
        longest = self._longest_wait_s if remaining is None else min(remaining, self._longest_wait_s)
        try:
            offer().result(timeout=max(longest, 0))
        except QueueFull as error:
            message = "the queue of feedback is full; nothing of this call was accepted"
            raise full(message, retry_after_ms=error.retry_after_ms, reason="queue_full") from None
        except TimeoutError:
            message = "the feedback was not durable in time; send it again, what was accepted counts once"
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, message, reason="deadline") from None
        except LoopFailed as error:
            self._on_failure(str(error))
            message = f"learning has stopped: {error}"
            raise Refused(grpc.StatusCode.UNAVAILABLE, message, reason="loop_failed") from None
        self._metrics.delay.observe(time.perf_counter() - started)

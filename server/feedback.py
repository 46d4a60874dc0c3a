"""FeedbackService: impressions and clicks from callers without a Kafka client.

Invariants: an accepted element is durable when the call returns; a bad element is answered by its index and does
not stop the others; a call that cannot be taken whole is refused before anything of it is accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from server import limits
from server.durable import DurableFeedback
from server.errors import invalid, invalid_field
from server.metrics import Metrics
from streams.validation import Violation, check_click, check_impression

Refusals: TypeAlias = list[feedback_pb2.RefusedElement]
Check: TypeAlias = Callable[[Any, JoinRule, int], Violation | None]


class FeedbackService(feedback_pb2_grpc.FeedbackServiceServicer):
    """Takes impressions and clicks.

    Args:
        durable: makes events durable.
        rule: which events count.
        metrics: where elements are counted.
        clock_ms: Unix milliseconds.
        on_clicks: told of accepted clicks once they are durable; None = nobody is.
    """

    def __init__(
        self,
        *,
        durable: DurableFeedback,
        rule: JoinRule,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        on_clicks: Callable[[Sequence[events_pb2.Click]], None] | None = None,
    ) -> None:
        self._durable = durable
        self._rule = rule
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._on_clicks = on_clicks

    def LogImpressions(  # noqa: N802 - the name of the RPC
        self, request: feedback_pb2.LogImpressionsRequest, context: grpc.ServicerContext
    ) -> feedback_pb2.LogImpressionsResponse:
        """Make impressions durable; answers each element that was refused."""
        _check_count("impressions", len(request.impressions))
        shown = sum(len(impression.items) for impression in request.impressions)
        if shown > limits.MAX_FEEDBACK_ITEMS:
            expected = f"at most {limits.MAX_FEEDBACK_ITEMS} items of all impressions together"
            raise invalid_field("impressions", expected, f"{shown} items")
        good, refused = self._sort_out(request.impressions, check_impression)
        if good:
            self._durable.impressions(events_pb2.ImpressionBatch(impressions=good), context)
        self._metrics.feedback("impression", accepted=len(good), refused=len(refused))
        return feedback_pb2.LogImpressionsResponse(accepted=len(good), refused=refused)

    def LogClicks(  # noqa: N802 - the name of the RPC
        self, request: feedback_pb2.LogClicksRequest, context: grpc.ServicerContext
    ) -> feedback_pb2.LogClicksResponse:
        """Make clicks durable; answers each element that was refused."""
        _check_count("clicks", len(request.clicks))
        good, refused = self._sort_out(request.clicks, check_click)
        if good:
            self._durable.clicks(events_pb2.ClickBatch(clicks=good), context)
            if self._on_clicks is not None:
                self._on_clicks(good)
        self._metrics.feedback("click", accepted=len(good), refused=len(refused))
        return feedback_pb2.LogClicksResponse(accepted=len(good), refused=refused)

    def _sort_out(self, elements: Sequence[Any], check: Check) -> tuple[list[Any], Refusals]:
        now_ms = self._clock_ms()
        good: list[Any] = []
        refused: Refusals = []
        for index, element in enumerate(elements):
            violation = check(element, self._rule, now_ms)
            if violation is None:
                good.append(element)
            else:
                status = invalid([violation]).status()
                refused.append(feedback_pb2.RefusedElement(index=index, status=status))
        return good, refused


def _check_count(field: str, count: int) -> None:
    if not 1 <= count <= limits.MAX_FEEDBACK_ELEMENTS:
        raise invalid_field(field, f"1 to {limits.MAX_FEEDBACK_ELEMENTS} elements", f"{count} elements")

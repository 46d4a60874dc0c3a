"""How a call is refused: a status with rich details that a program can act on.

Invariant: every refusal says what was expected and what came, or when to try again; it fits the trailing metadata.
"""

from collections.abc import Sequence
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from server.limits import MAX_QUOTED_CHARACTERS, MAX_VIOLATIONS
from streams.validation import Violation


class Refused(Exception):
    """A call, or one element of it, that is answered with a status other than OK.

    Attributes:
        code: the status code.
        message: one sentence for a person.
        reason: a short constant for the label of a metric.
        details: messages for a program, such as BadRequest or RetryInfo.
    """

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.details = details

    def status(self) -> Status:
        """The refusal as google.rpc.Status."""
        packed = []
        for detail in self.details:
            wrapper = Any()
            wrapper.Pack(detail)
            packed.append(wrapper)
        return Status(code=self.code.value[0], message=self.message, details=packed)


def quote(value: object) -> str:
    """A value as a refusal repeats it: on one line, and not longer than `MAX_QUOTED_CHARACTERS`."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


def invalid(violations: Sequence[Violation]) -> Refused:
    """INVALID_ARGUMENT with BadRequest, naming at most `MAX_VIOLATIONS` fields."""
    named = [
        BadRequest.FieldViolation(field=v.field, description=f"expected {v.expected}, got {quote(v.got)}")
        for v in violations[:MAX_VIOLATIONS]
    ]
    message = f"{named[0].field}: {named[0].description}"
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message, BadRequest(field_violations=named), reason="invalid")


def invalid_field(field: str, expected: str, got: object) -> Refused:
    """INVALID_ARGUMENT for one field."""
    return invalid([Violation(field, expected, str(got))])


def full(message: str, *, retry_after_ms: int, reason: str) -> Refused:
    """RESOURCE_EXHAUSTED with RetryInfo: nothing of the call was accepted."""
    delay = Duration()
    delay.FromMilliseconds(retry_after_ms)
    return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, message, RetryInfo(retry_delay=delay), reason=reason)


def no_graph() -> Refused:
    """FAILED_PRECONDITION before a graph is loaded."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, "no graph is loaded yet", reason="no_graph")


def abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    """End a call with a refusal; the one place where the server does so."""
    context.abort_with_status(rpc_status.to_status(refused.status()))
    raise AssertionError("unreachable: abort_with_status raises")

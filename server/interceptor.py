"""What happens around every call: admission, deadline, metrics, log, and the status of whatever went wrong.

Invariant: no handler's exception reaches gRPC, so no call is ever answered UNKNOWN.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from structlog.typing import FilteringBoundLogger

from server.errors import Refused, abort
from server.gate import Gate
from server.limits import MAX_TORN_READINGS
from server.metrics import Metrics
from server.open_streams import OpenStreams
from server.snapshot import Torn

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Behaviour: TypeAlias = "Callable[[Any, grpc.ServicerContext], Any]"
ShortWay: TypeAlias = "Callable[[bytes], bytes | None]"


@dataclass(frozen=True, eq=False)
class ServiceRules:
    """How the calls of one service are let in and run.

    Attributes:
        gate: the places they share.
        pool: their own threads; None = the server's.
        logged: names of the calls that change something by an operator's hand.
        stream_gate: the places of streams; None = the service has none.
        stream_pool: their own threads, as each keeps one for as long as it is open.
    """

    gate: Gate
    pool: ThreadPoolExecutor | None = None
    logged: frozenset[str] = frozenset()
    stream_gate: Gate | None = None
    stream_pool: ThreadPoolExecutor | None = None


class CallInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps the methods of the services that have rules; health and reflection pass as they are.

    The handler of a method with streams both ways is called for each message of the stream, as that of a unary one.

    Args:
        rules: by full name of the service.
        short_ways: by path of the method ("/package.Service/Method"): what may answer a request from its bytes.
        streams: those that are open.
        metrics: where calls are counted.
        log: where unexpected errors go.
    """

    def __init__(
        self,
        *,
        rules: Mapping[str, ServiceRules],
        short_ways: Mapping[str, ShortWay],
        streams: OpenStreams,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._rules = rules
        self._short_ways = short_ways
        self._streams = streams
        self._metrics = metrics
        self._log = log
        self._wrapped: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call, wrapped once a method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = continuation(handler_call_details)
        service, _, rpc = method.removeprefix("/").partition("/")
        rules = self._rules.get(service)
        if handler is not None and handler.stream_stream is not None and rules is not None:
            return self._wrapped_stream(method, rpc, handler, rules)
        if handler is None or handler.unary_unary is None or rules is None:
            return handler
        short = self._short_ways.get(method)
        if short is None:
            wrapped = grpc.unary_unary_rpc_method_handler(
                self._wrap(rpc, handler.unary_unary, rules),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        else:
            wrapped = grpc.unary_unary_rpc_method_handler(self._wrap(rpc, either_way(short, handler), rules))
        self._wrapped[method] = wrapped
        return wrapped

    def _wrapped_stream(self, method: str, rpc: str, handler: Any, rules: ServiceRules) -> Handler:
        behaviour, gate = handler.stream_stream, rules.stream_gate or rules.gate

        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            code = grpc.StatusCode.OK
            try:
                with gate.enter(), self._streams.entered(context):
                    for request in requests:
                        self._streams.working(context)
                        refuse_if_expired(context)
                        yield steadily(behaviour, request, context)
                        self._streams.waiting(context)
            except Refused as refused:
                code = refused.code
                self._metrics.refused.labels(reason=refused.reason).inc()
                abort(context, refused)
            except grpc.RpcError:  # the caller has gone
                code = grpc.StatusCode.CANCELLED
            except Exception:
                code = grpc.StatusCode.INTERNAL
                self._log.exception("call_failed", rpc=rpc, request_id="")
                message = "internal error, logged by the server"
                abort(context, Refused(code, message, reason="internal"))
            finally:
                self._metrics.stream_ended(rpc, code.name)

        if rules.stream_pool is not None:
            answer.experimental_thread_pool = rules.stream_pool  # type: ignore[attr-defined]
        wrapped = self._wrapped[method] = grpc.stream_stream_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _wrap(self, rpc: str, behaviour: Behaviour, rules: ServiceRules) -> Behaviour:
        answered = self._metrics.answered

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                with rules.gate.enter():
                    refuse_if_expired(context)
                    return steadily(behaviour, request, context)
            except Refused as refused:
                code = refused.code
                self._metrics.refused.labels(reason=refused.reason).inc()
                abort(context, refused)
            except Exception:
                code = grpc.StatusCode.INTERNAL
                self._log.exception("call_failed", rpc=rpc, request_id=request_id_of(behaviour, request))
                message = "internal error, logged by the server"
                abort(context, Refused(code, message, reason="internal"))
            finally:
                answered(rpc, code.name, time.perf_counter() - started)
                if rpc in rules.logged:
                    self._log.info("operation", rpc=rpc, code=code.name, peer=context.peer())

        if rules.pool is not None:
            # The attribute by which grpcio lets a method run in threads of its own.
            answer.experimental_thread_pool = rules.pool  # type: ignore[attr-defined]
        return answer


def either_way(short: ShortWay, handler: Any) -> Behaviour:
    """From bytes to bytes: the short way, or what the handler makes of the message where that does not answer."""

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        found = short(data)
        if found is None:
            found = handler.response_serializer(handler.unary_unary(parse(data), context))
        return found

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            message = "the request is not a message of this call"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message, reason="invalid") from None

    answer.parse = parse  # type: ignore[attr-defined]
    return answer


def steadily(behaviour: Behaviour, request: Any, context: grpc.ServicerContext) -> Any:
    """The answer to a request, made again where the writer came round to what it was made of.

    Raises:
        Refused: UNAVAILABLE after `MAX_TORN_READINGS` of them.
    """
    for _ in range(MAX_TORN_READINGS):
        try:
            return behaviour(request, context)
        except Torn:
            continue
    message = "the parameters changed faster than they could be read"
    raise Refused(grpc.StatusCode.UNAVAILABLE, message, reason="torn")


def request_id_of(behaviour: Behaviour, request: Any) -> str:
    """What to look for in the log of a caller."""
    if isinstance(request, bytes):
        try:
            request = behaviour.parse(request)  # type: ignore[attr-defined]
        except Refused:
            return ""
    return getattr(request, "request_id", "")


def refuse_if_expired(context: grpc.ServicerContext) -> None:
    """Spend no work on a caller who has stopped waiting.

    Raises:
        Refused: DEADLINE_EXCEEDED.
    """
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        message = "the deadline passed before the call was looked at"
        raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, message, reason="deadline")

"""Feedback from the processes that serve to the one that learns, over a local socket: durable there, answered here.

Invariants: an answer says what the loop said: done when durable, or its own refusal. What was sent to a writer that
died is answered `WriterAway`; it counts once if it is sent again. Nothing is buffered beyond what calls are waiting
for. Only processes of the same user are listened to.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

import grpc

from freshet.v1 import events_pb2
from server.durable import FeedbackSink
from server.errors import Refused
from streams.embedded import LoopFailed, QueueFull

_HEAD = struct.Struct("<IQB")  # bytes that follow, number of the call, kind or answer
_CREDENTIALS = struct.Struct("3i")
_IMPRESSIONS, _CLICKS = 1, 2
_DONE, _FULL, _FAILED = 1, 2, 3
_SEND_TIMEOUT = struct.pack("ll", 10, 0)  # struct timeval
_MAX_FRAME_BYTES = 1 << 30


class WriterAway(Refused):
    """The process that learns is not there; it is being started again."""

    def __init__(self) -> None:
        message = "the process that learns is being started again; send it again, what was accepted counts once"
        super().__init__(grpc.StatusCode.UNAVAILABLE, message, reason="writer_away")


class FeedbackServer:
    """Takes feedback of other processes for a loop.

    Args:
        listening: a local socket that listens.
        loop: takes it.
        on_clicks: told of clicks once they are durable; None = nobody is.
    """

    def __init__(
        self,
        listening: socket.socket,
        loop: FeedbackSink,
        on_clicks: Callable[[Sequence[events_pb2.Click]], None] | None = None,
    ) -> None:
        self._listening = listening
        self._loop = loop
        self._on_clicks = on_clicks
        self._thread = threading.Thread(target=self._accept, name="freshet-feedback-link", daemon=True)

    def start(self) -> None:
        """Begin to take it."""
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            if _is_ours(peer):
                threading.Thread(target=self._take, args=(peer,), name="freshet-feedback-peer", daemon=True).start()
            else:
                peer.close()

    def _take(self, peer: socket.socket) -> None:
        sending = threading.Lock()
        with peer:
            while (frame := _receive(peer)) is not None:
                call, kind, body = frame
                try:
                    future = self._offer(kind, body)
                except (QueueFull, LoopFailed) as error:
                    _answer(peer, sending, call, error)
                else:
                    future.add_done_callback(partial(_answer_future, peer, sending, call))

    def _offer(self, kind: int, body: bytes) -> "Future[None]":
        if kind == _CLICKS:
            batch = events_pb2.ClickBatch.FromString(body)
            future = self._loop.offer_clicks(batch)
            if self._on_clicks is not None:
                # Before whoever sent them is answered.
                future.add_done_callback(partial(_tell, self._on_clicks, batch))
            return future
        return self._loop.offer_impressions(events_pb2.ImpressionBatch.FromString(body))


class FeedbackClient:
    """Sends feedback to the process that learns.

    Args:
        address: of its socket.
    """

    def __init__(self, address: bytes) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def offer_impressions(self, batch: events_pb2.ImpressionBatch) -> "Future[None]":
        """Send validated impressions; the future has the loop's answer.

        Raises:
            WriterAway: nobody is there.
        """
        return self._offer(_IMPRESSIONS, batch.SerializeToString())

    def offer_clicks(self, batch: events_pb2.ClickBatch) -> "Future[None]":
        """Send validated clicks; as `offer_impressions`."""
        return self._offer(_CLICKS, batch.SerializeToString())

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _offer(self, kind: int, body: bytes) -> "Future[None]":
        with self._lock:
            if self._connection is None or self._connection.ended:
                self._connection = _Connection(self._address)
            connection = self._connection
        return connection.offer(kind, body)


class _Connection:
    """One connection, and the calls that wait for an answer on it."""

    def __init__(self, address: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise WriterAway from None
        self.ended = False
        self._lock = threading.Lock()
        self._calls: dict[int, Future[None]] = {}
        self._count = 0
        threading.Thread(target=self._hear, name="freshet-feedback-answers", daemon=True).start()

    def offer(self, kind: int, body: bytes) -> "Future[None]":
        future: Future[None] = Future()
        with self._lock:
            if self.ended:
                raise WriterAway
            call = self._count = self._count + 1
            self._calls[call] = future
            try:
                self._socket.sendall(_HEAD.pack(len(body), call, kind) + body)
            except OSError:  # a frame may have been cut: nothing after it would be understood
                self.close()
        return future

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _hear(self) -> None:
        while (frame := _receive(self._socket)) is not None:
            call, answer, body = frame
            with self._lock:
                future = self._calls.pop(call, None)
            if future is not None:
                _settle(future, answer, body)
        with self._lock:
            self.ended = True
            waiting = list(self._calls.values())
        for future in waiting:
            future.set_exception(WriterAway())
        self._socket.close()


def _tell(
    on_clicks: Callable[[Sequence[events_pb2.Click]], None], batch: events_pb2.ClickBatch, future: "Future[None]"
) -> None:
    if future.exception() is None:
        on_clicks(batch.clicks)


def _settle(future: "Future[None]", answer: int, body: bytes) -> None:
    if answer == _DONE:
        future.set_result(None)
    elif answer == _FULL:
        future.set_exception(QueueFull(int.from_bytes(body, "little")))
    else:
        future.set_exception(LoopFailed(body.decode()))


def _answer_future(peer: socket.socket, sending: threading.Lock, call: int, future: "Future[None]") -> None:
    _answer(peer, sending, call, future.exception())


def _answer(peer: socket.socket, sending: threading.Lock, call: int, error: BaseException | None) -> None:
    answer, body = _DONE, b""
    if isinstance(error, QueueFull):
        answer, body = _FULL, error.retry_after_ms.to_bytes(4, "little")
    elif error is not None:
        answer, body = _FAILED, str(error).encode()
    with sending:
        try:
            # Never waits: a peer that does not read its answers must not hold up the learning.
            sent = peer.send(_HEAD.pack(len(body), call, answer) + body, socket.MSG_DONTWAIT)
            if sent < _HEAD.size + len(body):
                peer.shutdown(socket.SHUT_RDWR)
        except BlockingIOError:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has gone, and those who waited with it


def _receive(source: socket.socket) -> tuple[int, int, bytes] | None:
    head = _exactly(source, _HEAD.size)
    if head is None:
        return None
    length, call, kind = _HEAD.unpack(head)
    body = _exactly(source, length) if length <= _MAX_FRAME_BYTES else None
    return None if body is None else (call, kind, body)


def _exactly(source: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            data = source.recv(min(size - len(parts), 1 << 20))
        except OSError:
            return None
        if not data:
            return None
        parts += data
    return bytes(parts)


def _is_ours(peer: socket.socket) -> bool:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1]) == os.getuid()

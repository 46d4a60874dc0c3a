"""The streams that are open, so that a stop need not wait for callers who say nothing.

Invariants: a message that is being answered when the stop begins is answered; then the stream ends UNAVAILABLE. One
that waits for its caller's next message is cancelled at once. Both may be opened again elsewhere.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from server.errors import Refused


class OpenStreams:
    """All open streams of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[grpc.ServicerContext, None] = {}
        self._count = 0
        self._stopping = False

    @property
    def count(self) -> int:
        """Streams that are open now."""
        return self._count

    @contextmanager
    def entered(self, context: grpc.ServicerContext) -> Iterator[None]:
        """For as long as a stream is open."""
        with self._lock:
            self._count += 1
        self.waiting(context)
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                self._idle.pop(context, None)

    def waiting(self, context: grpc.ServicerContext) -> None:
        """The stream waits for its caller.

        Raises:
            Refused: UNAVAILABLE, as the server stops.
        """
        with self._lock:
            if not self._stopping:
                self._idle[context] = None
                return
        message = "the server is stopping; open the stream again"
        raise Refused(grpc.StatusCode.UNAVAILABLE, message, reason="stopping")

    def working(self, context: grpc.ServicerContext) -> None:
        """The stream has a message to be answered."""
        with self._lock:
            self._idle.pop(context, None)

    def stop(self) -> None:
        """End the streams that wait, and those that work once they have answered."""
        with self._lock:
            self._stopping = True
            idle = list(self._idle)
        for context in idle:
            context.cancel()  # type: ignore[no-untyped-call]

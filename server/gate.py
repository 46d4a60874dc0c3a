"""Admission: how many calls of one kind may be in flight at once.

Invariant: a call that is let in gives its place back, whatever happens to it; a call that is not is refused at
once and never waits, so that one kind of call cannot hold the threads of another.
"""

import threading

from server.errors import full


class Gate:
    """A bounded number of places.

    Args:
        kind: of the calls, as metrics and refusals name it.
        places: how many calls may be in flight.
        retry_after_ms: what a refused caller is told to wait.
    """

    def __init__(self, kind: str, *, places: int, retry_after_ms: int) -> None:
        self.kind = kind
        self._places = places
        self._retry_after_ms = retry_after_ms
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Calls inside now."""
        return self._in_flight

    def enter(self) -> "Gate":
        """Hold a place for the time of a call: `with gate.enter():`.

        Raises:
            Refused: RESOURCE_EXHAUSTED, as all places are taken; raised on entering.
        """
        return self

    def __enter__(self) -> None:
        with self._lock:
            admitted = self._in_flight < self._places
            self._in_flight += admitted
        if not admitted:
            raise full(
                f"{self._places} {self.kind} calls are in flight, no more are let in",
                retry_after_ms=self._retry_after_ms,
                reason=f"{self.kind}_in_flight",
            )

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._in_flight -= 1

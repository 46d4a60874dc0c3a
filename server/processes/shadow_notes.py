"""Shadowed slates from the processes that score them to the one that waits for their rewards.

All notes go through one pair of sockets that the first process holds, so they outlive whoever reads them.

Invariants: a note arrives whole or not at all; a call never waits for the other end: a note that finds no room is
dropped, and counted. A slate that was shown before the reader of notes began is passed over, as its clicks may have
been heard by nobody.
"""

import socket
import struct
import threading
from typing import Any

import numpy as np
import orjson

from server.shadow.awaited import AwaitedRewards
from server.shadow.pending import PendingSlate

MAX_NOTE_BYTES = 64 << 10  # the system cuts longer ones
_HEAD = struct.Struct("<BI")  # kind, and bytes of what is told as JSON; weights follow
_SHOWN, _WEIGHED, _GIVEN_UP = 1, 2, 3


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Where notes are read, and where they are written."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class NotesOut:
    """Has the methods of `server.shadow.awaited.Awaiting`, for a process that scores.

    Args:
        end: of the pair, where notes are written.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._dropped = 0
        self._lock = threading.Lock()

    def shown(self, slate: PendingSlate) -> bool:
        """See `Awaiting`."""
        return self._write(_SHOWN, slate)

    def weighed(self, slate: PendingSlate) -> None:
        """See `Awaiting`."""
        # Where it is not heard of the slate closes without weights, and is counted there.
        self._write(_WEIGHED, slate, counted=False)

    def given_up(self, slate: PendingSlate) -> None:
        """See `Awaiting`."""
        self._write(_GIVEN_UP, slate, counted=False)

    def outcomes(self) -> dict[str, int]:
        """See `Awaiting`."""
        return {"dropped": self._dropped}

    def _write(self, kind: int, slate: PendingSlate, *, counted: bool = True) -> bool:
        told = orjson.dumps([slate.request_id, slate.shown_ms, slate.item_ids])
        weights = b"" if slate.weights is None else np.ascontiguousarray(slate.weights, "<f8").tobytes()
        note = _HEAD.pack(kind, len(told)) + told + weights
        try:
            if len(note) <= MAX_NOTE_BYTES:
                self._end.send(note, socket.MSG_DONTWAIT)
                return True
        except OSError:  # there is no room
            pass
        if counted:
            with self._lock:
                self._dropped += 1
        return False


class NotesIn:
    """Reads notes, for the process that waits for rewards.

    Args:
        end: of the pair, where notes are read.
        awaited: takes them.
        policies: how many shadow policies there are.
        began_ms: from when on clicks are heard, Unix milliseconds.
    """

    def __init__(self, end: socket.socket, awaited: AwaitedRewards, *, policies: int, began_ms: int) -> None:
        self._end = end
        self._awaited = awaited
        self._policies = policies
        self._began_ms = began_ms
        self._thread = threading.Thread(target=self._run, name="freshet-shadow-notes", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self, note: bytes) -> None:
        """Take one note."""
        kind, length = _HEAD.unpack_from(note)
        told: Any = orjson.loads(note[_HEAD.size : _HEAD.size + length])
        request_id, shown_ms, item_ids = told
        if shown_ms < self._began_ms:
            return
        slate = PendingSlate(request_id, shown_ms, tuple(item_ids))
        if kind == _SHOWN:
            self._awaited.shown(slate)
        elif kind == _WEIGHED:
            slate.weights = np.frombuffer(note, "<f8", offset=_HEAD.size + length).reshape(self._policies, -1)
            self._awaited.weighed(slate)
        else:
            self._awaited.given_up(slate)

    def _run(self) -> None:
        while note := self._end.recv(MAX_NOTE_BYTES):
            self.take(note)

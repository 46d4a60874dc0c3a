"""Messages between the first process and those that it has started: JSON of a stated length, some with a file.

Invariants: a message arrives whole or not at all; the end of the channel is the end of the other process, however
that came about, so that none outlives the first one unnoticed.
"""

import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import orjson

Message = dict[str, Any]

MAX_MESSAGE_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")


class Channel:
    """One end.

    Args:
        end: of a pair of connected stream sockets.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, message: Message, *, fd: int | None = None) -> bool:
        """Send a message, and a file descriptor of which the other end gets one of its own; False if it is gone."""
        body = orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS)
        head = _LENGTH.pack(len(body))
        with self._sending:
            try:
                if fd is None:
                    self._socket.sendall(head + body)
                else:
                    sent = socket.send_fds(self._socket, [head], [fd])
                    self._socket.sendall(head[sent:] + body)
            except OSError:
                return False
        return True

    def receive(self) -> tuple[Message, int | None] | None:
        """The next message, and the file that came with it, if one did; None at the end. One thread at a time."""
        fds: list[int] = []
        head = self._read(_LENGTH.size, fds)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > MAX_MESSAGE_BYTES:
            raise ValueError(f"message: expected at most {MAX_MESSAGE_BYTES} bytes, got {length}")
        body = self._read(length, fds)
        if body is None:
            return None
        message: Message = orjson.loads(body)
        return message, fds[0] if fds else None

    def close(self) -> None:
        """End it; the other end is told."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, size: int, fds: list[int]) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                data, more, _, _ = socket.recv_fds(self._socket, min(size - len(parts), 1 << 20), 1)
            except OSError:
                return None
            fds += more
            if not data:
                return None
            parts += data
        return bytes(parts)

"""One process that the first one has started: its life, and what it says."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from server.processes.channel import Channel, Message

_LOOK_S = 10.0  # the system walks through all pages of the process
_MODULE = "server.processes.child"


class Process:
    """A process from its start to its end; another one takes its place afterwards.

    Args:
        role: "writer" or "reader".
        number: of the reader.
        board_fd: of the board.
        link_fd: of the socket that listens for feedback; -1 = none.
        notes_fd: of its end of the notes of shadowed slates; -1 = none.
        order: the first message.
        on_message: called with each message, and the file that came with it, from a thread of its own.
        on_end: called once when it has ended, from the same thread.

    Attributes:
        name: of the process.
        reason: why it failed, in its own words.
        asked: whether it owes a report.
    """

    def __init__(
        self,
        role: str,
        number: int,
        *,
        board_fd: int,
        link_fd: int,
        notes_fd: int,
        order: Message,
        on_message: "Callable[[Process, Message, int | None], None]",
        on_end: "Callable[[Process], None]",
    ) -> None:
        self.role, self.number = role, number
        self.name = role if role == "writer" else f"{role}-{number}"
        self.reason = ""
        self.asked = False
        self._pss_bytes, self._next_look_s = 0, 0.0
        self._on_message = on_message
        self._on_end = on_end
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        files = (theirs.fileno(), board_fd, link_fd, notes_fd)
        numbers = list(map(str, (number, *files)))
        fds = [fd for fd in files if fd >= 0]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - the program is this one
                [sys.executable, "-P", "-m", _MODULE, role, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=fds,
                env=os.environ | {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")},
            )
        self.channel.send(order)
        self._thread = threading.Thread(target=self._follow, name=f"freshet-{self.name}", daemon=True)

    def start(self) -> None:
        """Begin to hear it."""
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end and for what is done about it; False if the time was over first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def pss_bytes(self) -> int:
        """Its share of the memory, looked at every `_LOOK_S`; 0 where the system does not tell."""
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._pss_bytes, self._next_look_s = self._look(), now_s + _LOOK_S
        return self._pss_bytes

    def _look(self) -> int:
        try:
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_bytes().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:"))

    def _follow(self) -> None:
        while (received := self.channel.receive()) is not None:
            message, fd = received
            if message["say"] == "failed":
                self.reason = message["reason"]
            self._on_message(self, message, fd)
        self._process.wait()
        self.channel.close()
        if not self.reason:
            code = self._process.returncode
            self.reason = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        self._on_end(self)

"""A process that the first one has started: `python -m server.processes.child ROLE NUMBER` and four open files.

Invariants: it does what the first process says and ends when that ends, however that came about; signals are for
the first process alone. The files, by number: channel, board, link and notes; -1 where there is none.
"""

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from server.processes.board import Board
from server.processes.channel import Channel, Message

ORPHAN_GRACE_S = 2.0
TAKEN_S = 10.0
_FAILURE_CHECK_S = 0.1
FAILED = 3


class Orders:
    """What the first process wants, by now.

    Args:
        channel: to it.

    Attributes:
        report: makes the report of this process; None until there is something to be told.
        compile, serve, stop: set once it is to do so.
        grace_s: for calls in flight.
        preparing: whether the process may end at once.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.report: Callable[[], Message] | None = None
        self._go_to: Callable[[int], int] | None = None
        self._waiting_fd: int | None = None
        self._going = threading.Lock()
        self.compile = threading.Event()
        self.serve = threading.Event()
        self.stop = threading.Event()
        self.grace_s = ORPHAN_GRACE_S
        self.preparing = False
        self._taken = threading.Condition()
        self._taken_number = -1
        self._thread = threading.Thread(target=self._follow, name="freshet-orders", daemon=True)

    def start(self) -> None:
        """Begin to follow them."""
        self._thread.start()

    def send_readers(self, go_to: Callable[[int], int]) -> None:
        """From now on `go_to` reads from a segment and tells its number; the latest so far first."""
        with self._going:
            self._go_to = go_to
            if self._waiting_fd is not None:
                self._take(self._waiting_fd)

    def wait_until_taken(self, number: int) -> bool:
        """Wait until all readers have gone to a segment; False if that took too long."""
        with self._taken:
            return self._taken.wait_for(lambda: self._taken_number >= number or self.stop.is_set(), TAKEN_S)

    def _follow(self) -> None:
        try:
            while (received := self.channel.receive()) is not None:
                self._obey(*received)
        except Exception as error:  # who no longer follows must not serve on: another takes its place
            self.channel.send({"say": "failed", "reason": f"{type(error).__name__}: {error}"})
            os._exit(FAILED)
        with self._taken:
            self._end()
            self._taken.notify_all()

    def _obey(self, order: Message, fd: int | None) -> None:
        match order["do"]:
            case "go_to" if fd is not None:
                with self._going:
                    self._take(fd)
            case "taken":
                with self._taken:
                    self._taken_number = order["number"]
                    self._taken.notify_all()
            case "report":
                self.channel.send({"say": "report", **(self.report() if self.report else {})})
            case "compile":
                self.compile.set()
            case "serve":
                self.serve.set()
            case "stop":
                self.grace_s = order["grace_s"]
                self._end()

    def _take(self, fd: int) -> None:
        if self._go_to is not None:
            self.channel.send({"say": "taken", "number": self._go_to(fd)})
            return
        if self._waiting_fd is not None:
            os.close(self._waiting_fd)
        self._waiting_fd = fd

    def _end(self) -> None:
        if self.preparing:
            os._exit(0)  # there is nothing to be finished, and compiling takes long
        for awaited in (self.stop, self.compile, self.serve):
            awaited.set()


def main(role: str, number: int, channel_fd: int, board_fd: int, link_fd: int, notes_fd: int) -> int:
    """Run until told to stop; the exit code."""
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    channel, board = Channel(socket.socket(fileno=channel_fd)), Board(board_fd)
    received = channel.receive()
    if received is None:
        return 0
    try:
        notes = _socket(notes_fd)
        if role == "reader":
            return _read(channel, board, number, notes, received[0])
        return _write(channel, board, _socket(link_fd), notes, received[0])
    except Exception as error:
        channel.send({"say": "failed", "reason": str(error) or type(error).__name__})
        if os.environ.get("FRESHET_DEBUG"):
            raise
        return FAILED


def _socket(fd: int) -> socket.socket | None:
    return None if fd < 0 else socket.socket(fileno=fd)


def _read(channel: Channel, board: Board, number: int, notes: socket.socket | None, told: Message) -> int:
    from server.logs import log_all, make_logger
    from server.processes.reader import ServingProcess
    from server.settings import Settings

    settings = Settings(**told["settings"])
    log_all(settings.log.level, settings.log.format)
    log = make_logger(settings.log.level, settings.log.format, process=f"reader-{number}")
    link = None if told["link"] is None else bytes.fromhex(told["link"])
    orders = Orders(channel)
    orders.start()
    orders.compile.wait()
    if orders.stop.is_set():
        return 0
    orders.preparing = True
    process = ServingProcess(
        settings, board=board, number=number, link=link, notes=notes, clock_ms=_unix_ms, log=log
    )
    orders.preparing = False
    channel.send({"say": "compiled"})
    orders.report = process.report
    orders.send_readers(process.go_to)
    orders.serve.wait()
    if not orders.stop.is_set():
        address = process.serve()
        _settle()
        channel.send({"say": "serving", "address": address})
        orders.stop.wait()
    process.stop(orders.grace_s)
    return 0


def _write(
    channel: Channel, board: Board, link: socket.socket | None, notes: socket.socket | None, told: Message
) -> int:
    from server.logs import log_all, make_logger
    from server.processes.segment import Segment
    from server.processes.writer import WritingProcess
    from server.settings import Settings

    settings = Settings(**told["settings"])
    log_all(settings.log.level, settings.log.format)
    log = make_logger(settings.log.level, settings.log.format, process="writer")
    orders = Orders(channel)

    def hand_over(segment: Segment) -> None:
        version = process.snapshot.version
        channel.send({"say": "segment", "number": segment.number, "graph_version": version}, fd=segment.fd)
        segment.close_fd()
        if not orders.wait_until_taken(segment.number):
            log.warning("a serving process has not taken over the graph in time", within_s=TAKEN_S)

    process = WritingProcess(
        settings,
        board=board,
        first_segment=told["first_segment"],
        on_segment=hand_over,
        link=link,
        notes=notes,
        clock_ms=_unix_ms,
        log=log,
    )
    orders.report = process.report
    orders.start()
    try:
        address = process.start()
        channel.send({"say": "started", "address": address})
        _settle()
        while not orders.stop.wait(_FAILURE_CHECK_S):
            if process.failed:
                raise RuntimeError(f"learning has stopped: {process.failed}")
    except BaseException:
        with suppress(Exception):  # a store that cannot be written cannot be closed cleanly either
            process.stop(orders.grace_s)
        raise
    process.stop(orders.grace_s)
    return 0


def _settle() -> None:
    """What lives as long as the process need not be walked through by each full collection."""
    gc.collect()
    gc.freeze()


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    code = main(sys.argv[1], *map(int, sys.argv[2:]))
    sys.stderr.flush()
    os._exit(code)  # threads that wait for a peer hold up nothing

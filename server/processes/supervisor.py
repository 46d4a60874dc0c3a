"""The first process: starts one that writes and several that serve, keeps them running, shows them as one server.

Invariants: it learns, scores and listens for calls itself in nothing; a process that ends is started again, after a
pause that grows to `LONGEST_PAUSE_S`, and counted. The port of callers is held for as long as it runs, so no other
server gets it between two processes. A stop lets those that serve answer, and then the writer write.
"""

import os
import socket
import threading
import time
from importlib.metadata import version as installed_version
from typing import Any

from server.app import Addresses, StartError
from server.http import HttpServer
from server.logs import make_logger
from server.processes.board import Board
from server.processes.channel import Message
from server.processes.merged import WRITER, Merged
from server.processes.merged_pages import MergedHistory, make_merged_pages
from server.processes.process import Process
from server.processes.segment import Unshareable
from server.processes.shadow_notes import make_pair
from server.settings import Settings, split_address

LONGEST_START_S = 600.0  # on a slow machine that has compiled nothing yet
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_S = 60.0  # who ran for so long is started again after the first pause
_POLL_S = 1.0
_KILL_AFTER_S = 5.0  # beyond the grace
_SEGMENTS_A_WRITER = 1 << 20


class Supervisor:
    """All processes of one server; it is started and stopped once, as `server.app.App`.

    Args:
        settings: all of them.

    Attributes:
        settings, version: as of `App`.
        failed: why the server cannot go on; None, as its processes are started again.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.version = installed_version("freshet")
        self.failed: str | None = None
        self.graph_version: str | None = None
        self._log = make_logger(settings.log.level, settings.log.format, process="first")
        self._merged = Merged()
        self._history = MergedHistory(self._merged)
        self._changed = threading.Condition()  # guards all below
        self._processes: dict[str, Process] = {}
        self._started_s: dict[str, float] = {}
        self._pauses_s: dict[str, float] = {}
        self._serving: set[str] = set()
        self._writer_address: str | None = None
        self._segment: tuple[int, int] | None = None  # number and file
        self._version = ""
        self._taken: dict[str, int] = {}
        self._compiled = False
        self._writers = 0
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._held: list[socket.socket] = []
        self._addresses: Addresses | None = None
        self._http: HttpServer | None = None
        self._board: Board | None = None
        self._link: socket.socket | None = None
        self._notes: tuple[socket.socket, socket.socket] | None = None  # where they are read, and written
        self._polling = threading.Thread(target=self._poll, name="freshet-reports", daemon=True)

    @property
    def addresses(self) -> Addresses:
        """Where the server listens.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._addresses is None:
            raise RuntimeError("the server has not been started")
        return self._addresses

    def start(self) -> None:
        """Start all processes; they serve when this returns.

        Raises:
            StartError: an address is taken, or a process cannot start.
        """
        try:
            self._start()
        except (Unshareable, OSError) as error:
            self.stop(0)
            raise StartError(str(error)) from error
        except BaseException:
            self.stop(0)
            raise
        self._log.info("serving", **vars(self.addresses), processes=self.settings.server.processes)

    def stop(self, grace_s: float) -> None:
        """Let those that serve answer what is in flight, then the writer write what was accepted."""
        self._stopping.set()
        deadline_s = time.monotonic() + grace_s
        with self._changed:
            self._changed.notify_all()
            processes = list(self._processes.values())
        readers = [process for process in processes if process.role != WRITER]
        for group in (readers, [process for process in processes if process.role == WRITER]):
            left_s = max(deadline_s - time.monotonic(), 1.0 if grace_s else 0.0)
            for process in group:
                process.channel.send({"do": "stop", "grace_s": left_s})
            for process in group:
                if not process.wait(left_s + _KILL_AFTER_S):
                    process.kill()
                    process.wait(_KILL_AFTER_S)
        if self._polling.is_alive():
            self._polling.join()
        if self._http:
            self._http.stop()
        for held in self._held:
            held.close()
        self._log.info("stopped")

    def pids(self) -> dict[str, int]:
        """Number of each process, by name."""
        with self._changed:
            return {name: process.pid for name, process in self._processes.items()}

    # --- starting -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        settings = self.settings
        self._board = Board.make()
        port, address = _hold_port(settings.address)
        self._held.append(port)
        self._http = HttpServer(split_address(settings.http_address))
        if settings.kafka.bootstrap is None:
            link = self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._held.append(link)
            link.bind("")  # a name that the system chooses, and that no file stands for
            link.listen(settings.server.processes)
        if settings.shadow.policies:
            self._notes = make_pair()
            self._held += self._notes
        self._serving_address = address
        with self._changed:
            self._launch(WRITER, 0)
            for number in range(settings.server.processes):
                self._launch("reader", number)
            deadline_s = time.monotonic() + LONGEST_START_S
            while len(self._serving) < settings.server.processes and self._failure is None:
                if not self._changed.wait(deadline_s - time.monotonic()) and time.monotonic() > deadline_s:
                    self._failure = f"its processes were not ready within {LONGEST_START_S:.0f} s"
            if self._failure is not None:
                raise StartError(self._failure)
        self._polling.start()
        self._http.start(make_merged_pages(self._merged, self._history, version=self.version, poll=self._ask))
        host, http_port = self._http.address
        self._addresses = Addresses(address, self._writer_address or "", f"{host}:{http_port}")

    def _launch(self, role: str, number: int) -> None:
        """Start a process; called with the lock held."""
        board = self._board
        if board is None or self._stopping.is_set():
            return
        settings = self.settings.handed_on() | {"address": self._serving_address}
        order: Message = {"settings": settings}
        link_fd = -1
        if role == WRITER:
            if self._writer_address is not None:
                settings["operations_address"] = self._writer_address
            order["first_segment"] = 1 + self._writers * _SEGMENTS_A_WRITER
            self._writers += 1
            link_fd = self._link.fileno() if self._link is not None else -1
        else:
            order["link"] = self._link.getsockname().hex() if self._link is not None else None
        process = Process(
            role,
            number,
            board_fd=board.fd,
            link_fd=link_fd,
            notes_fd=self._notes[role != WRITER].fileno() if self._notes else -1,
            order=order,
            on_message=self._hear,
            on_end=self._end,
        )
        self._processes[process.name] = process
        self._started_s[process.name] = time.monotonic()
        self._merged.started(process.name)
        if role != WRITER:
            board.unpin(number)
            # One compiles, and the others read what it has written to the cache.
            if number == 0 or self._compiled:
                process.channel.send({"do": "compile"})
            if self._segment is not None:
                process.channel.send({"do": "go_to"}, fd=self._segment[1])
            if self._writer_address is not None:
                process.channel.send({"do": "serve"})
        process.start()

    # --- hearing ------------------------------------------------------------------------------------------------

    def _hear(self, process: Process, message: Message, fd: int | None) -> None:
        """A process has said something."""
        with self._changed:
            match message["say"]:
                case "started":
                    self._writer_address = message["address"]
                    for reader in self._readers():
                        if reader.name not in self._serving:
                            reader.channel.send({"do": "serve"})
                case "segment" if fd is not None:
                    if self._segment is not None:
                        os.close(self._segment[1])
                    self._segment, self._version = (message["number"], fd), message["graph_version"]
                    for reader in self._readers():
                        reader.channel.send({"do": "go_to"}, fd=fd)
                    self._tell_taken()
                case "taken":
                    self._taken[process.name] = message["number"]
                    self._tell_taken()
                case "compiled" if not self._compiled:
                    self._compiled = True
                    for reader in self._readers():
                        if reader is not process:
                            reader.channel.send({"do": "compile"})
                case "serving":
                    self._serving.add(process.name)
                    self._changed.notify_all()
                case "report":
                    process.asked = False
                    self._changed.notify_all()
        if message["say"] == "report":
            self._merged.told(process.name, message, memory_bytes=process.pss_bytes())

    def _tell_taken(self) -> None:
        """The writer is told up to where all who serve have gone."""
        writer = self._processes.get(WRITER)
        if writer is not None and self._segment is not None:
            at = [self._taken.get(reader.name, -1) for reader in self._readers() if reader.name in self._serving]
            number = min(at, default=self._segment[0])
            writer.channel.send({"do": "taken", "number": number})
            if number == self._segment[0]:
                self.graph_version = self._version

    def _readers(self) -> list[Process]:
        return [process for process in self._processes.values() if process.role != WRITER]

    def _end(self, process: Process) -> None:
        """A process has ended: it is started again, unless all are to end."""
        with self._changed:
            self._processes.pop(process.name, None)
            self._serving.discard(process.name)
            self._taken.pop(process.name, None)
            if process.role != WRITER and self._board is not None:
                self._board.unpin(process.number)
            if self._stopping.is_set():
                return
            if self._addresses is None:
                self._failure = self._failure or f"{process.name}: {process.reason}"
                self._changed.notify_all()
                return
            self._merged.ended(process.name)
            self._tell_taken()
            steady = time.monotonic() - self._started_s[process.name] > STEADY_S
            pause_s = FIRST_PAUSE_S if steady else self._pauses_s.get(process.name, FIRST_PAUSE_S)
            self._pauses_s[process.name] = min(2 * pause_s, LONGEST_PAUSE_S)
        self._log.error("process_ended", ended=process.name, reason=process.reason, again_in_s=pause_s)
        if not self._stopping.wait(pause_s):
            with self._changed:
                self._launch(process.role, process.number)

    # --- reports ------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_S):
            self._ask(_POLL_S)
            self._history.tick()

    def _ask(self, longest_s: float) -> None:
        """Have all processes report, and wait for those who do in time."""
        with self._changed:
            for process in self._processes.values():
                if not process.asked:
                    process.asked = process.channel.send({"do": "report"})
            deadline_s = time.monotonic() + longest_s
            while any(process.asked for process in self._processes.values()):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return


def _hold_port(address: str) -> tuple[socket.socket, str]:
    """A socket that holds a port for those who serve, and the address with it.

    It is bound alone, so that a port that is taken is found out, and shared only then.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(where)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        held.close()
        raise OSError(f"cannot listen on {address}: {error.strerror}") from None
    bound: Any = held.getsockname()
    return held, f"{address.rpartition(':')[0]}:{bound[1]}"

"""One local Apache Kafka broker (KRaft, broker and controller in one process) on loopback.

Promises:
- Everything it writes lies under its data directory; it listens on 127.0.0.1 only.
- Only the process that this data directory recorded is ever signalled: a recorded pid counts only
  while that process runs with this directory's server.properties.
- ``start`` returns when the broker answers a request, or raises within its timeout and leaves nothing
  running.
- Data survive ``stop``, ``kill9`` and the next ``start``; ``wipe`` removes only a directory made here.
"""

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from kafka_jars import jars, java

LOOPBACK = "127.0.0.1"
LOG4J = Path(__file__).with_name("log4j2.xml")
POLL_S = 0.05
# Below the ephemeral range of every common system: a client that keeps dialling a stopped broker's
# port inside that range can end up connected to itself and keep the port from the broker.
PORTS = range(15_000, 30_000)


class BrokerError(RuntimeError):
    """The broker did not start, or this data directory is in use; the message says which and why."""


def free_port() -> int:
    """A port on loopback that nothing listens on now, outside the ephemeral range."""
    chooser = random.SystemRandom()
    for _ in range(100):
        port = chooser.choice(PORTS)
        if _is_free(port):
            return port
    raise BrokerError(f"no free port among {PORTS.start}-{PORTS.stop} on {LOOPBACK}")


class LocalBroker:
    """A broker with its data directory; the object may be made anew by any later process.

    Args:
        data_dir: made by the first ``start``; holds data, settings, log and the record of the process.
        port: of the client listener. The controller's own port is chosen at each start.
        partitions: of a topic created without a number of its own.
        heap_mib: the largest Java heap.
        settings: further lines of server.properties, which win over the ones made here.
        listeners: further ones by name, each with its security protocol and its port on loopback; what they need
            besides (certificates, log-ins) is in `settings`.
        ends_with_caller: whether it is killed when the thread that starts it ends, however that comes about; of
            effect only where the command setpriv of util-linux is installed.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        partitions: int = 8,
        heap_mib: int = 512,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, tuple[str, int]] | None = None,
        ends_with_caller: bool = False,
    ):
        self.data_dir = data_dir.absolute()
        self.port = port
        self.log_path = self.data_dir / "logs" / "broker.log"
        self._partitions = partitions
        self._heap_mib = heap_mib
        self._settings = dict(settings or {})
        self._listeners = {"PLAINTEXT": ("PLAINTEXT", port), **(listeners or {})}
        setpriv = shutil.which("setpriv") if ends_with_caller else None
        self._launcher = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self._properties = self.data_dir / "server.properties"
        self._record = self.data_dir / "broker.json"
        self._console = self.data_dir / "logs" / "console.log"
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def recorded(cls, data_dir: Path) -> "LocalBroker | None":
        """The broker last started on this data directory, running or not; None if there was none."""
        try:
            port = int(json.loads((data_dir / "broker.json").read_text())["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(data_dir, port=port)

    @property
    def bootstrap(self) -> str:
        """The bootstrap string for clients, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while the broker runs (paused counts), otherwise None."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        try:
            pid = int(json.loads(self._record.read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if str(self._properties) in _command_of(pid) else None

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start and wait until it answers.

        Raises:
            BrokerError: it runs already, the port is taken, or it ended or stayed silent.
            KafkaMissingError: no Java or no jars on this machine.
        """
        if self.pid is not None:
            raise BrokerError(f"a broker already runs on {self.data_dir} (pid {self.pid})")
        if not _is_free(self.port):
            raise BrokerError(f"port {self.port} on {LOOPBACK} is in use")
        runtime, folder = java(), jars()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(self._server_properties(controller_port=free_port()))
        command = [runtime, *self._java_options(), "-cp", f"{folder}/*"]
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(command)
        with self._console.open("wb") as console:
            self._child = subprocess.Popen(  # noqa: S603
                [*self._launcher, *command, "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self.data_dir,
                start_new_session=True,  # Ctrl-C in the caller's terminal is not meant for the broker
            )
        self._record.write_text(json.dumps({"pid": self._child.pid, "port": self.port}))
        try:
            self._wait_until_it_answers(timeout_s)
        except BaseException:
            self.kill9()
            raise

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """End it in order (SIGTERM), by force after the timeout; without effect if it does not run."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # a paused process would not see the SIGTERM
            os.kill(pid, signal.SIGTERM)
        if not self._ended_within(timeout_s):
            self.kill9()

    def kill9(self) -> None:
        """End it at once (SIGKILL), as a crash would; without effect if it does not run."""
        self._signal(signal.SIGKILL)
        if not self._ended_within(10.0):
            raise BrokerError(f"process {self.pid} of {self.data_dir} outlived SIGKILL")

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Stop it and remove the data directory with everything in it.

        Raises:
            BrokerError: the directory exists and was not made by ``start``.
        """
        if not self.data_dir.exists():
            return
        if not self._properties.exists():
            raise BrokerError(f"{self.data_dir} is not a broker's data directory; nothing was removed")
        self.stop()
        shutil.rmtree(self.data_dir)

    def answers(self, *, timeout_s: float = 2.0) -> bool:
        """Whether it answers an ApiVersions request within the timeout."""
        # KIP-511: key 18, version 0, a correlation id and no client id; then error code 0 comes back.
        body = struct.pack(">hhih", 18, 0, 1, -1)
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=timeout_s) as connection:
                connection.sendall(struct.pack(">i", len(body)) + body)
                reply = connection.recv(10, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(reply) == 10 and struct.unpack(">iih", reply)[1:] == (1, 0)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _ended_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self.pid is None:
                raise BrokerError(f"the broker ended while starting:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker did not answer within {timeout_s} s:\n{self._last_lines()}")
            time.sleep(POLL_S)

    def _format(self, command: list[str]) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
        done = subprocess.run(  # noqa: S603
            [*command, *arguments, "-c", str(self._properties)],
            capture_output=True,
            text=True,
            cwd=self.data_dir,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"could not format {self.data_dir}:\n{done.stdout}{done.stderr}")

    def _java_options(self) -> list[str]:
        return [
            f"-Xmx{self._heap_mib}m",
            f"-Xms{min(128, self._heap_mib)}m",
            "-XX:+UseSerialGC",  # a small heap on few cores: less memory and fewer threads than G1
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={LOG4J}",
            f"-Dfreshet.kafka.logs={self.log_path.parent}",
        ]

    def _server_properties(self, *, controller_port: int) -> str:
        clients = ",".join(f"{name}://{LOOPBACK}:{port}" for name, (_, port) in self._listeners.items())
        protocols = ",".join(f"{name}:{protocol}" for name, (protocol, _) in self._listeners.items())
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{clients},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": clients,
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.data_dir / "data"),
            "num.partitions": str(self._partitions),
            "auto.create.topics.enable": "false",
            # After a crash the controller refuses this node until its old session has run out (9 s by default).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.num.partitions": "8",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
        }
        return "".join(f"{key}={value}\n" for key, value in (lines | self._settings).items())

    def _last_lines(self, count: int = 15) -> str:
        shown: list[str] = []
        for path in (self._console, self.log_path):
            with contextlib.suppress(OSError):
                shown += path.read_text(errors="replace").splitlines()[-count:]
        return "\n".join(shown)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _command_of(pid: int) -> str:
    """The command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    shown = subprocess.run(  # noqa: S603
        ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return shown.stdout

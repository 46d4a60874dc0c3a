"""`freshet serve` as a child process that ends with its parent.

Invariant: the child stops when this process closes its standard input, so it never outlives it, however it ends.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LONGEST_START_S = 300.0  # the first start of a release compiles
LONGEST_STOP_S = 30.0
_ANY_PORT = "127.0.0.1:0"


class ServerFailed(RuntimeError):
    """The server did not start, or ended by itself; the message is its own."""


class ServerProcess:
    """A running `freshet serve`.

    Args:
        data_dir: its data directory.
        log_file: what it writes to standard error is kept there.
        arguments: further options of `freshet serve`.
        environment: added to this process's own.

    Attributes:
        addresses: where it listens: serving, operations, http.
    """

    def __init__(
        self, data_dir: Path, *, log_file: Path, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._log_file = log_file
        command = [sys.executable, "-P", "-m", "server", "serve", "--json", "--stop-on-eof"]
        for option in ("--address", "--operations-address", "--http-address"):
            command += [option, _ANY_PORT]
        command += ["--data-dir", str(data_dir), "--log-format", "json", *arguments]
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the program is this one
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,  # an interrupt in the terminal is for the parent
            )
        self.addresses: dict[str, str] = self._ready()["addresses"]

    def check(self) -> None:
        """Raise ServerFailed if it has ended."""
        if self._process.poll() is not None:
            raise ServerFailed(self._reason())

    def stop(self) -> None:
        """Let it stop gracefully; it is gone when this returns."""
        pipe = self._process.stdin
        if pipe and not pipe.closed:
            pipe.close()
        try:
            self._process.wait(LONGEST_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ready(self) -> dict[str, Any]:
        # A reader of its own, as a pipe has no timeout.
        lines: list[bytes] = []
        stdout: IO[bytes] | None = self._process.stdout
        reader = threading.Thread(target=lambda: lines.append(stdout.readline() if stdout else b""), daemon=True)
        reader.start()
        reader.join(LONGEST_START_S)
        if not lines or not lines[0]:
            self.stop()
            raise ServerFailed(self._reason())
        ready: dict[str, Any] = json.loads(lines[0])
        return ready

    def _reason(self) -> str:
        said = self._log_file.read_text("utf-8", "replace").strip().splitlines()
        told = [line.removeprefix("freshet: ") for line in said if line.startswith("freshet: ")]
        reason = told[-1] if told else f"it did not say why, see {self._log_file}"
        return f"the server ended with exit code {self._process.returncode}: {reason}"

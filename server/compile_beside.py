"""Compiles in a process of its own what fills slates, while this one compiles the rest: once for each release.

Invariant: nothing depends on it. What the other process has not left in the cache on disk when it ends, for
whatever reason, is compiled here. It ends with the process that started it.
"""

import gc
import os
import subprocess
import sys
import threading

from bandits.backend import Backend

_MODULE = "server.compile_beside"


class CompilingBeside:
    """The other process, where there is something to compile and a processor to do it on.

    Whether there is, is asked once a release: a start that was killed while it compiled is followed by one that
    compiles alone.

    Args:
        backend: slates are filled by; nothing is compiled for any but Numba's.
    """

    def __init__(self, backend: Backend) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if backend.name == "numba" and len(os.sched_getaffinity(0)) > 1:
            self._start()

    def _start(self) -> None:
        from bandits.numba_late import was_compiled

        if not was_compiled():
            self._process = subprocess.Popen(  # noqa: S603 - the program is this one
                [sys.executable, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,  # its end says that this process has ended
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    @property
    def compiles(self) -> bool:
        """Whether there is such a process, as far as has been seen."""
        return self._process is not None

    def wait(self) -> None:
        """Until it has done what it can."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def stop(self) -> None:
        """End it; nothing happens where it has ended."""
        if self._process is not None:
            self._process.kill()
            self.wait()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Compile what fills slates."""
    from bandits.numba_late import filling_address, integrated_address, picking_address

    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # a tenth of the time goes into looking for garbage, which ends with this process
    for compiled in (integrated_address, picking_address, filling_address):
        compiled()


if __name__ == "__main__":
    main()

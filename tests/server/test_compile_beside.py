"""What is compiled in a process of its own: help where it works, nothing lost where it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bandits import numba_late
from bandits.backend import choose_backend
from server import compile_beside
from server.compile_beside import CompilingBeside

SIGNATURES = """
from bandits.backend import choose_backend
from server.compile_beside import CompilingBeside
from server.lane.read_score import read_score
from server.lane.warm_up import compile_calls
backend = choose_backend("numba")
compile_calls(backend, CompilingBeside(backend))
print(len(read_score.signatures))
"""


@pytest.fixture
def new_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was ever compiled, with two processors."""
    monkeypatch.setattr(numba_late, "was_compiled", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def test_a_process_that_fails_is_waited_for_and_no_more(new_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits goes on, and compiles what is missing."""
    monkeypatch.setattr(compile_beside, "_MODULE", "server.there_is_no_such_module")
    beside = CompilingBeside(choose_backend("numba"))
    assert beside.compiles
    beside.wait()
    assert not beside.compiles
    beside.wait()
    beside.stop()


def test_a_start_that_fails_leaves_no_process_behind(new_machine: None, tmp_path: Path) -> None:
    """A server that cannot start ends what compiles for it."""
    beside = CompilingBeside(choose_backend("numba"))
    assert beside.compiles
    beside.stop()
    assert not beside.compiles


def test_nothing_is_started_where_there_is_nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Numba, after the first start of a release, or on one processor, this process does all itself."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert not CompilingBeside(choose_backend("numpy")).compiles
    numba_late.was_compiled()
    assert numba_late.was_compiled()
    assert not CompilingBeside(choose_backend("numba")).compiles
    monkeypatch.setattr(numba_late, "was_compiled", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert not CompilingBeside(choose_backend("numba")).compiles


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Of a server that is killed nothing goes on compiling."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "server.compile_beside"],
        stdin=subprocess.PIPE,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
    ) as process:
        process.communicate(timeout=60)
        assert process.returncode == 1


def test_reading_is_compiled_once() -> None:
    """What is compiled while the other process works is what calls ask for, and not another signature."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNATURES], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split() == ["1"]

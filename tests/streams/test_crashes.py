"""A process that dies anywhere loses nothing and doubles nothing: its sums equal a dict fold of what was sent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bandits.backend import choose_backend
from streams.failpoints import EXIT_CODE
from streams.verify import verify_store
from tests.streams.feeding_process import event, loop_settings
from tests.streams.loops import make_graph, model_hash, offer, settle, started

ROOT = Path(__file__).parents[2]


MODES = pytest.mark.parametrize("at_close", [False, True], ids=["immediate", "at_close"])


def run(
    folder: Path, *arguments: object, failpoint: str = "", at_close: bool = False
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.streams.feeding_process", str(folder), *map(str, arguments)]
    environment = os.environ | {"FRESHET_FAILPOINT": failpoint} | ({"FEED_AT_CLOSE": "1"} if at_close else {})
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def check(folder: Path, count: int, *, at_close: bool = False) -> None:
    """The state is that of the first events, each taken once, in memory, on disk and by the ledger."""
    settings = loop_settings(folder, at_close=at_close)
    loop = started(folder, **settings)
    until = time.monotonic() + 30
    while loop.status().in_flight:
        assert time.monotonic() < until
        time.sleep(0.05)
    loop.stop(grace_s=10)
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    loop = started(folder, **settings)
    live, tally = loop.state_hash(), loop.status().counts
    loop.stop(grace_s=10)
    assert live == result.state_hash == model_hash(make_graph(), map(event, range(count)))
    assert tally["clicks_joined"] > 0
    assert tally["impressions_accepted"] > 0


@MODES
@pytest.mark.parametrize("name", ["joined", "learned", "encoded", "written", "published"])
def test_a_crash_at_any_step_of_the_commit_loses_and_doubles_nothing(
    tmp_path: Path, name: str, at_close: bool
) -> None:
    """What was acknowledged is there; what was not is offered again and counts once."""
    crashed = run(tmp_path, 200, failpoint=f"{name}:4", at_close=at_close)
    assert crashed.returncode == EXIT_CODE, crashed.stderr
    acknowledged = int(crashed.stdout.split()[-1])
    assert acknowledged < 200
    loop = started(tmp_path, **loop_settings(tmp_path, at_close=at_close))
    assert at_close or loop.status().ledger_end == (4 if name in ("written", "published") else 3)
    settle(offer(loop, *map(event, range(acknowledged, 200))))
    loop.stop(grace_s=10)
    check(tmp_path, 200, at_close=at_close)


def test_a_crash_before_the_first_commit_leaves_an_empty_store(tmp_path: Path) -> None:
    """Starting after it is starting anew."""
    crashed = run(tmp_path, 50, failpoint="encoded")
    assert (crashed.returncode, crashed.stdout.split()) == (EXIT_CODE, ["0"])
    again = run(tmp_path, 50)
    assert again.returncode == 0, again.stderr
    check(tmp_path, 50)


@MODES
@pytest.mark.parametrize("seed", [1])
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, seed: int, at_close: bool) -> None:
    """24 SIGKILLs while opening, restoring and writing; every event retried until acknowledged."""
    finished = run(tmp_path, "kill", 24, seed, at_close=at_close)
    assert finished.returncode == 0, f"seed {seed}: {finished.stderr}"
    count = int(finished.stdout)
    check(tmp_path, count, at_close=at_close)

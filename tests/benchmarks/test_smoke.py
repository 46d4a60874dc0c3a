"""Every benchmark runs, at sizes so small that nothing is learned from its numbers."""

import importlib
import json
import math

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import NAMES, main
from server.cli import freshet


@pytest.mark.parametrize("name", [name for name in NAMES if name != "replay"])
def test_a_benchmark_runs_and_agrees_with_its_reference(name: str) -> None:
    """A benchmark compares its results with a reference, and gives positive numbers."""
    results = importlib.import_module(f"benchmarks.{name}").run(True)
    assert results
    for result in results:
        assert math.isfinite(result.value)
        assert 0 <= result.low <= result.value <= result.high


def test_the_real_log_replays_to_one_hash(data_dir: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay benchmark asserts one state hash over all its rounds."""
    monkeypatch.setenv("FRESHET_TEST_DATA", str(data_dir))
    assert importlib.import_module("benchmarks.replay").run(True)


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names those that exist."""
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])
    assert "expected names of update" in capsys.readouterr().err


def test_the_program_measures_this_machine() -> None:
    """`freshet bench` prints JSON and nothing else with --json, and names the benchmarks there are."""
    result = CliRunner().invoke(freshet, ["bench", "update", "--quick", "--json"])
    assert result.exit_code == 0, result.output
    assert {row["unit"] for row in json.loads(result.stdout)["results"]["update"]} == {"ns/fact", "x"}
    unknown = CliRunner().invoke(freshet, ["bench", "nothing"])
    assert unknown.exit_code == 2
    assert "expected any of update" in unknown.output

"""Vowpal Wabbit on the environment of the regret table: its runs repeat, learn, and wait for late feedback."""

from pathlib import Path

import numpy as np
import pytest

from bandits.simulator.fixed_environment import environment
from benchmarks import regret_vowpal
from benchmarks.regret_page import POINTS, Cell

pytest.importorskip("vowpalwabbit")
WORLD = environment()


def lost(*, explorer: str = "vw_squarecb", delay: int = 0, rounds: int = 60, seed: int = 3) -> float:
    return regret_vowpal.play_vowpal(WORLD, "B", explorer, rounds=rounds, horizon=100, delay=delay, seed=seed)


@pytest.mark.parametrize("explorer", regret_vowpal.EXPLORERS)
def test_a_run_repeats_for_its_seed(explorer: str) -> None:
    """Every explorer is a pure function of its seed, and loses something to knowing the truth."""
    assert lost(explorer=explorer) == lost(explorer=explorer) > 0
    assert lost(explorer=explorer) != lost(explorer=explorer, seed=4)


def test_feedback_is_learned_no_earlier_than_its_delay() -> None:
    """What comes after the last round changes nothing; what comes at once does."""
    assert lost(delay=60) == lost(delay=10**6)
    assert lost(delay=0) != lost(delay=60)


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path) -> None:
    """A table that was interrupted goes on where it stopped."""
    runs = tmp_path / "runs.csv"
    command = ["--scenario", "B", "--rounds", "20", "--horizon", "20", "--seeds", "1", "--delay", "0"]
    command += ["--csv", str(runs)]
    assert regret_vowpal.main([*command, "--explorer", "vw_epsilon"]) == 0
    before = runs.read_text()
    assert regret_vowpal.main([*command, "--explorer", "vw_epsilon", "vw_first"]) == 0
    assert runs.read_text().startswith(before)
    assert len(regret_vowpal.read(runs)) == 2


def test_the_table_sets_equal_rounds_side_by_side() -> None:
    """Explorers after so many rounds beside what the curves hold of as many, not of the whole run."""
    head = dict(zip(regret_vowpal.COLUMNS, ("B", "vw_first", "0", "100", "1", "50.0", "1.0"), strict=True))
    runs = [head, {**head, "seed": "2", "regret": "70.0"}]
    curve = np.arange(1.0, POINTS + 1)[None]
    cells = [Cell("B", "random", 0.0, 0, 1_000, curve), Cell("A", "random", 0.0, 0, 1_000, curve)]
    lines = regret_vowpal.tables(runs, cells)
    assert "| `vw_first` | 60 ± 10 |" in lines
    assert "| `random` | 2 |" in lines
    assert regret_vowpal.tables([], cells) == []

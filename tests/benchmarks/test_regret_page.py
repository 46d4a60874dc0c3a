"""The regret table: what is written can be read again, and the page says what the cells say."""

from pathlib import Path

import numpy as np

from benchmarks import regret
from benchmarks.regret_page import POINTS, Cell, read, tables, write_csv


def make_cell(name: str, finals: list[float], *, scenario: str = "A", delay: int = 0) -> Cell:
    curves = np.linspace(0.0, 1.0, POINTS + 1)[1:] * np.array(finals)[:, None]
    return Cell(scenario, name, 0.5, delay, 1_000, curves)


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A run is never lost, doubled, or given to another cell."""
    cells = [
        make_cell("random", [10.0, 12.0]),
        make_cell("random", [20.0], delay=5),
        make_cell("diag_ts", [3.0, 4.0]),
    ]
    write_csv(tmp_path / "runs.csv", cells, 2000)
    again = read(tmp_path / "runs.csv")
    assert [(c.scenario, c.policy, c.parameter, c.delay, c.rounds) for c in again] == [
        (c.scenario, c.policy, c.parameter, c.delay, c.rounds) for c in cells
    ]
    for one, other in zip(again, cells, strict=True):
        np.testing.assert_allclose(one.curves, other.curves, atol=0.05)


def test_the_best_of_a_column_is_bold() -> None:
    """Means with their standard errors; what was not run is left empty."""
    cells = [
        make_cell("random", [10.0, 12.0]),
        make_cell("diag_ts", [3.0, 5.0]),
        make_cell("random", [9.0], scenario="low"),
    ]
    lines = tables(cells)
    assert "| `random` | 11 ± 1 |" in lines
    assert "| `diag_ts` | **4 ± 1** |" in lines
    assert "| `diag_ts` |  |" in lines


def test_every_scenario_is_compared_with_every_kind_of_policy() -> None:
    """Ours, both full-matrix policies, Beta Thompson, UCB1, epsilon-greedy, the published one and random."""
    wanted = {"randomized_ucb", "linucb_full", "lints_full", "beta_ts_item", "ucb1_cluster", "eps_greedy_cluster"}
    for scenario in set(regret.SCENARIOS) - set(regret.OURS_ALONE):
        names = {chosen.name for chosen in regret.policies_of(scenario)}
        assert wanted | {"diag_linucb", "random"} <= names


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path) -> None:
    """A table that was interrupted goes on where it stopped."""
    runs = tmp_path / "runs.csv"
    command = ["--scenario", "B", "--rounds", "50", "--seeds", "1", "--delay", "0", "--csv", str(runs), "--policy"]
    assert regret.main([*command, "random"]) == 0
    before = runs.read_text()
    assert regret.main([*command, "random", "diag_linucb=0.75"]) == 0
    assert runs.read_text().startswith(before)
    assert len(read(runs)) == 2

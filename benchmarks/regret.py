"""Regret of every policy in every scenario: a table, docs/regret.md with its CSV and curves.

    python -m benchmarks.regret --all            # goes on where docs/regret.csv stops; --fresh: from the start
    python -m benchmarks.regret --scenario A --seeds 3 --first-seed 0 --delay 0 1000

Published numbers of the same environment, of seeds 0 to 9, are read from regret/final.csv of the data folder
(FRESHET_TEST_DATA) where it is there.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandits.policy_settings import PolicySettings
from bandits.simulator.fixed_environment import environment, stream
from bandits.simulator.regret import play
from bandits.simulator.regret_policies import KINDS, RegretPolicy, policy
from bandits.simulator.regret_scenarios import SCENARIOS, make_conditions
from benchmarks import regret_page, regret_vowpal
from benchmarks.regret_page import POINTS, Cell, label

PUBLISHED = ("A", "B", "C")  # with numbers of others, at three delays
OURS_ALONE = ("few", "many")  # nobody else is tuned to other numbers of items
DELAYS = (0, 100, 1000)
# Parameters as tuned on a seed outside the table, by whoever published its numbers; scenarios made from A, B or C
# take those of theirs.
TUNED = {
    "A": "eps_greedy_cluster=0.1 ucb1_cluster=0.05 diag_linucb=0.75 diag_linucb_wnorm=0.5 diag_ts=0.25"
    " linucb_full=0.5 lints_full=0.1",
    "B": "eps_greedy_cluster=0.01 ucb1_cluster=0.15 diag_linucb=0.75 diag_linucb_wnorm=0.75 diag_ts=0.25"
    " linucb_full=0.75 lints_full=0.25",
    "C": "eps_greedy_cluster=0.1 ucb1_cluster=0.05 diag_linucb=0.75 diag_linucb_wnorm=0.5 diag_ts=0.25"
    " linucb_full=0.5 lints_full=0.1",
}
UNTUNED = "random beta_ts_edge beta_ts_item"
OURS = f"randomized_ucb={PolicySettings.optimism}"  # one setting for all scenarios and delays


@dataclass(frozen=True)
class Reference:
    """Mean and standard error of a published number."""

    mean: float
    error: float


def read_references(rounds: int) -> dict[tuple[str, str, float, int], Reference]:
    """Published numbers by scenario, name, parameter and delay; empty where there are none for this horizon."""
    folder = os.environ.get("FRESHET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    path = Path(folder) / "regret" / "final.csv"
    if not path.is_file() or rounds not in (20_000, 200_000):
        return {}
    column = f"regret_{rounds // 1000}k"
    references = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            key = (row["scenario"], row["algo"], float(row["param"]), int(row["delay"]))
            error = float(row[f"{column}_sd"]) / int(row["seeds"]) ** 0.5
            references[key] = Reference(float(row[f"{column}_mean"]), error)
    return references


def parse_policy(text: str) -> RegretPolicy:
    """`name` or `name=parameter`."""
    name, _, parameter = text.partition("=")
    try:
        return policy(name, float(parameter or 0))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def family(scenario: str) -> str:
    """Which of A, B, C a scenario is made from."""
    shape = SCENARIOS[scenario]
    return "B" if shape.k == 1 else "C" if shape.slate_size > 1 else "A"


def policies_of(scenario: str) -> list[RegretPolicy]:
    """Ours and all others, as tuned for the scenario."""
    if scenario in OURS_ALONE:
        return [parse_policy(OURS), parse_policy("random")]
    return [parse_policy(text) for text in f"{OURS} {UNTUNED} {TUNED[family(scenario)]}".split()]


def run_cell(scenario: str, chosen: RegretPolicy, delay: int, seeds: Sequence[int], rounds: int, jobs: int) -> Cell:
    """One policy over all seeds of a scenario."""
    shape = SCENARIOS[scenario]
    world = environment(items=shape.items, width=shape.width)

    def curve(seed: int) -> np.ndarray:
        users = stream(world, seed, rounds, shape.k)
        conditions = make_conditions(world, shape, rounds, delay=delay, seed=seed)
        rng = np.random.default_rng([seed, int(chosen.kind)])
        played = play(world, users, chosen, slate_size=shape.slate_size, conditions=conditions, rng=rng)
        ends = np.linspace(0, rounds, POINTS + 1).astype(int)[1:] - 1
        return np.cumsum(played.regret)[ends]

    start = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        curves = np.array(list(pool.map(curve, seeds)))
    return Cell(scenario, chosen.name, chosen.parameter, delay, rounds, curves, time.perf_counter() - start)


def run(options: argparse.Namespace, known: Sequence[Cell]) -> Iterator[Cell]:
    """Every cell of the table asked for that is not known yet."""
    done = {(cell.scenario, cell.policy, cell.parameter, cell.delay) for cell in known}
    for scenario in options.scenario:
        fixed = SCENARIOS[scenario].heavy_tail or (options.all and scenario not in PUBLISHED)
        for delay in (0,) if fixed else options.delay:
            for chosen in options.policy or policies_of(scenario):
                if (scenario, chosen.name, chosen.parameter, delay) not in done:
                    many = options.seeds if chosen.name in OURS else options.seeds_of_others or options.seeds
                    seeds = range(options.first_seed, options.first_seed + many)
                    yield run_cell(scenario, chosen, delay, seeds, options.rounds, options.jobs)


def show(cell: Cell, reference: Reference | None) -> None:
    """Print a line of the table."""
    line = f"{cell.scenario:11} {label(cell):26} {cell.delay:5d} {cell.final:10.1f} {cell.error:8.1f}"
    line += f" {cell.seconds / len(cell.curves):9.2f}"
    if reference:
        line += f" {reference.mean:10.1f} {reference.error:8.1f}"
        errors = float(np.hypot(cell.error, reference.error))
        if np.isfinite(errors) and errors > 0:
            line += f" {(cell.final - reference.mean) / errors:7.1f}"
    print(line, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every scenario, and write docs/regret.md and its CSV")
    parser.add_argument("--fresh", action="store_true", help="with --all: run again what docs/regret.csv holds")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--seeds-of-others", type=int, help="how many for all policies but ours")
    parser.add_argument("--first-seed", type=int, default=2000, help="published numbers use 0 to 9")
    parser.add_argument("--delay", type=int, nargs="+", default=list(DELAYS), help="rounds; of A, B and C")
    help_policy = f"name or name=parameter, of {', '.join(KINDS)}; all as tuned if not given"
    parser.add_argument("--policy", nargs="+", type=parse_policy, help=help_policy)
    parser.add_argument("--jobs", type=int, default=1, help="seeds run side by side")
    parser.add_argument("--csv", type=Path, help="curves are added here; what is in it already is not run again")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, and write what was asked for; 0."""
    options = parse(argv)
    docs = Path(__file__).parents[1] / "docs"
    references = read_references(options.rounds)
    print(f"cumulative regret after {options.rounds:,} rounds, {options.seeds} seeds from {options.first_seed}")
    head = f"{'scenario':11} {'policy':26} {'delay':>5} {'mean':>10} {'se':>8} {'s/run':>9}"
    print(head + (f" {'published':>10} {'se':>8} {'z':>7}" if references else ""))
    runs = options.csv or (docs / "regret.csv" if options.all else None)
    cells = regret_page.read(runs) if runs and runs.exists() and not options.fresh else []
    for cell in cells:
        show(cell, references.get((cell.scenario, cell.policy, cell.parameter, cell.delay)))
    for cell in run(options, tuple(cells)):
        cells.append(cell)
        show(cell, references.get((cell.scenario, cell.policy, cell.parameter, cell.delay)))
        if runs:
            regret_page.write_csv(runs, cells, options.first_seed)
    if options.all:
        vowpal = docs / "regret_vowpal.csv"
        regret_vowpal.main(["--csv", str(vowpal)])  # says so where the package is missing
        beside = regret_vowpal.tables(regret_vowpal.read(vowpal), cells)
        regret_page.write(docs, cells, options.first_seed, beside)
        print("\n".join([*regret_page.tables(cells), *beside]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

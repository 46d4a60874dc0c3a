"""Regret of every policy on the fixed environment, beside reference values: a table, CSV, curves as a picture.

    python -m benchmarks.regret --scenario A --rounds 200000 --seeds 3 --delay 0 1000

Scenarios: A five overlapping clusters a context, one item; B one-hot contexts, one item; C five clusters, slates of
five. Reference values are read from regret/final.csv of the data folder (FRESHET_TEST_DATA) where it is there.
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

from bandits.simulator.fixed_environment import Stream, environment, stream
from bandits.simulator.regret import SCENARIOS, play
from bandits.simulator.regret_policies import KINDS, RegretPolicy, policy

POINTS = 100  # of a curve
# Parameters as tuned on a seed outside the table, by whoever published its numbers.
TUNED = {
    "A": "eps_greedy_item=0.1 eps_greedy_cluster=0.1 ucb1_item=0.05 ucb1_cluster=0.05 diag_linucb=0.75"
    " diag_linucb_wnorm=0.5 diag_ts=0.25 linucb_full=0.5 lints_full=0.1",
    "B": "eps_greedy_item=0.05 eps_greedy_cluster=0.01 ucb1_item=0.25 ucb1_cluster=0.15 diag_linucb=0.75"
    " diag_ts=0.25 linucb_full=0.75 lints_full=0.25",
    "C": "eps_greedy_cluster=0.1 ucb1_cluster=0.05 diag_linucb=0.75 diag_linucb_wnorm=0.5 diag_ts=0.25"
    " linucb_full=0.5 lints_full=0.1",
}
UNTUNED = {
    "A": "random beta_ts_item beta_ts_edge",
    "B": "random beta_ts_item beta_ts_edge",
    "C": "random beta_ts_edge",
}

OURS = "random_optimism=0.55"  # one setting for all scenarios and delays


@dataclass(frozen=True)
class Cell:
    """One line of the table: curves of shape (seeds, POINTS), cumulative regret."""

    scenario: str
    policy: RegretPolicy
    delay: int
    curves: np.ndarray
    seconds: float

    @property
    def final(self) -> float:
        return float(self.curves[:, -1].mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over seeds; NaN of one seed."""
        seeds = len(self.curves)
        return float(self.curves[:, -1].std(ddof=1) / seeds**0.5) if seeds > 1 else float("nan")


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


def run_cell(
    scenario: str, chosen: RegretPolicy, delay: int, streams: dict[int, Stream], pool: ThreadPoolExecutor
) -> Cell:
    """One policy over all seeds of a scenario."""
    world, shape = environment(), SCENARIOS[scenario]

    def curve(seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, int(chosen.kind)])
        played = play(world, streams[seed], chosen, slate_size=shape.slate_size, delay=delay, rng=rng)
        ends = np.linspace(0, len(played.regret), POINTS + 1).astype(int)[1:] - 1
        return np.cumsum(played.regret)[ends]

    start = time.perf_counter()
    curves = np.array(list(pool.map(curve, streams)))
    return Cell(scenario, chosen, delay, curves, time.perf_counter() - start)


def run(options: argparse.Namespace) -> Iterator[Cell]:
    """Every cell of the table asked for."""
    with ThreadPoolExecutor(options.jobs) as pool:
        for scenario in options.scenario:
            texts = f"{UNTUNED[scenario]} {TUNED[scenario]} {OURS}".split()
            policies = options.policy or [parse_policy(text) for text in texts]
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            k = SCENARIOS[scenario].k
            streams = {seed: stream(environment(), seed, options.rounds, k) for seed in seeds}
            for chosen in policies:
                for delay in options.delay:
                    yield run_cell(scenario, chosen, delay, streams, pool)


def write_csv(path: Path, cells: Sequence[Cell], rounds: int) -> None:
    """Curves: one row for each cell and point."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["scenario", "policy", "parameter", "delay", "round", "mean_regret", "sd", "seeds"])
        for cell in cells:
            ddof = 1 if len(cell.curves) > 1 else 0
            head = [cell.scenario, cell.policy.name, cell.policy.parameter, cell.delay]
            ends = np.linspace(0, rounds, POINTS + 1).astype(int)[1:]
            for at, mean, sd in zip(ends, cell.curves.mean(0), cell.curves.std(0, ddof=ddof), strict=True):
                rows.writerow([*head, at, f"{mean:.2f}", f"{sd:.2f}", len(cell.curves)])


def draw(path: Path, cells: Sequence[Cell], rounds: int) -> None:
    """Curves of cumulative regret, one panel for each scenario and delay."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(cell.scenario, cell.delay) for cell in cells})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 5), squeeze=False)
    ends = np.linspace(0, rounds, POINTS + 1)[1:]
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
        shown = [cell for cell in cells if (cell.scenario, cell.delay) == panel]
        for cell in sorted(shown, key=lambda cell: -cell.final):
            mean, sd = cell.curves.mean(0), cell.curves.std(0)
            (line,) = axis.plot(ends, mean, label=f"{label(cell.policy)}: {cell.final:,.0f}")
            axis.fill_between(ends, mean - sd, mean + sd, color=line.get_color(), alpha=0.2)
        axis.set(title=f"scenario {panel[0]}, delay {panel[1]}", xlabel="round", ylabel="cumulative regret")
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def label(chosen: RegretPolicy) -> str:
    """Name and parameter, where there is one."""
    return f"{chosen.name} {chosen.parameter:g}" if chosen.parameter else chosen.name


def show(cell: Cell, reference: Reference | None) -> None:
    """Print a line of the table."""
    line = f"{cell.scenario:8} {label(cell.policy):26} {cell.delay:5d} {cell.final:10.1f} {cell.error:8.1f}"
    line += f" {cell.seconds / len(cell.curves):9.2f}"
    if reference:
        line += f" {reference.mean:10.1f} {reference.error:8.1f}"
        errors = float(np.hypot(cell.error, reference.error))
        if np.isfinite(errors) and errors > 0:
            line += f" {(cell.final - reference.mean) / errors:7.1f}"
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, and write what was asked for; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="published numbers use 0 to 9")
    parser.add_argument("--delay", type=int, nargs="+", default=[0], help="rounds")
    help_policy = f"name or name=parameter, of {', '.join(KINDS)}; all as tuned if not given"
    parser.add_argument("--policy", nargs="+", type=parse_policy, help=help_policy)
    parser.add_argument("--jobs", type=int, default=1, help="seeds run side by side")
    parser.add_argument("--csv", type=Path, help="write the curves here")
    parser.add_argument("--png", type=Path, help="draw the curves here")
    options = parser.parse_args(argv)
    references = read_references(options.rounds)
    print(f"cumulative regret after {options.rounds:,} rounds, {options.seeds} seeds from {options.first_seed}")
    head = f"{'scenario':8} {'policy':26} {'delay':>5} {'mean':>10} {'se':>8} {'s/run':>9}"
    print(head + (f" {'reference':>10} {'se':>8} {'z':>7}" if references else ""))
    cells = []
    for cell in run(options):
        cells.append(cell)
        key = (cell.scenario, cell.policy.name, cell.policy.parameter, cell.delay)
        show(cell, references.get(key))
    if options.csv:
        write_csv(options.csv, cells, options.rounds)
    if options.png:
        draw(options.png, cells, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

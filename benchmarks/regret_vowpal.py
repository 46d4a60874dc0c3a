"""Regret of Vowpal Wabbit on the environment of the regret table, over fewer rounds: it takes milliseconds a round.

    python -m benchmarks.regret_vowpal --rounds 20000 --seeds 2 --csv docs/regret_vowpal.csv

Invariants: the same users, candidates, click draws and delays as in `bandits.simulator.regret`; every explorer is
told the probability with which the item was picked, and learns online, one round at a time, in order of arrival.
Its settings are Vowpal Wabbit's own defaults, but for the exploration that gives the explorer its name.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bandits.simulator.fixed_environment import Environment, environment, stream
from bandits.simulator.regret_scenarios import SCENARIOS
from benchmarks.regret_page import POINTS, Cell, entry

# As in the documentation of each explorer; nothing was tuned.
EXPLORERS = {
    "vw_squarecb": "--squarecb",
    "vw_epsilon": "--epsilon 0.05",
    "vw_first": "--first 2000",
    "vw_cover": "--cover 4",
    "vw_regcb": "--regcbopt",
}
FEATURES = "--cb_explore_adf -q ui --ignore_linear u --noconstant -b 20 --quiet"
COLUMNS = ("scenario", "explorer", "delay", "rounds", "seed", "regret", "seconds")


def play_vowpal(
    world: Environment, scenario: str, explorer: str, *, rounds: int, horizon: int, delay: int, seed: int
) -> float:
    """Cumulative regret of one run.

    Args:
        world: the environment.
        scenario: of one item a round and without changes on the way: A or B.
        explorer: of `EXPLORERS`.
        rounds: how many of the stream are played.
        horizon: rounds of the stream, which decide its draws; those of the table have 200,000.
        delay: feedback of round q is learned before round t iff q + delay < t.
        seed: of the stream and of the picks.
    """
    from vowpalwabbit import Workspace

    users = stream(world, seed, horizon, SCENARIOS[scenario].k)
    rng = np.random.default_rng([seed, 77])
    learner: Any = Workspace(f"{FEATURES} {EXPLORERS[explorer]} --random_seed {seed}")
    actions = [f"|i {j}" for j in range(world.theta.shape[1])]
    waiting: list[tuple[str, list[str]]] = []
    lost = 0.0
    try:
        for t in range(rounds):
            while waiting and t - len(waiting) + delay < t:
                learner.learn([*waiting[0][:1], *waiting[0][1]])
                del waiting[0]
            clusters, weights = users.clusters[t], users.weights[t]
            candidates = np.unique(world.lists[clusters])
            user = "shared |u " + " ".join(f"c{c}:{w:.6f}" for c, w in zip(clusters, weights, strict=True))
            lines = [actions[j] for j in candidates]
            chances = np.array(learner.predict([user, *lines]))
            at = min(int(np.searchsorted(np.cumsum(chances), rng.random())), len(lines) - 1)
            p = weights @ world.theta[clusters][:, candidates]
            lost += p.max() - p[at]
            cost = -1.0 if users.uniforms[t, 0] < p[at] else 0.0
            lines[at] = f"0:{cost}:{chances[at]:.8f} {lines[at]}"
            waiting.append((user, lines))
    finally:
        learner.finish()
    return lost


def tables(runs: Sequence[dict[str, str]], cells: Sequence[Cell]) -> list[str]:
    """Explorers in Markdown, and below them what `cells` hold of the same rounds; empty without runs."""
    if not runs:
        return []
    rounds = int(runs[0]["rounds"])
    panels = sorted({(run["scenario"], int(run["delay"])) for run in runs})
    lost: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        if int(run["rounds"]) == rounds:
            lost.setdefault((run["explorer"], run["scenario"], int(run["delay"])), []).append(float(run["regret"]))
    for cell in cells:
        at = rounds * POINTS / cell.rounds - 1
        if (cell.scenario, cell.delay) in panels and at >= 0 and at == int(at):
            lost[cell.policy, cell.scenario, cell.delay] = cell.curves[:, int(at)].tolist()
    lines = ["", f"## Vowpal Wabbit, the first {rounds:,} rounds", ""]
    lines += ["| policy | " + " | ".join(f"{name}, {delay}" for name, delay in panels) + " |"]
    lines += ["|---|" + "---:|" * len(panels)]
    for name in dict.fromkeys(key[0] for key in lost):
        lines.append(f"| `{name}` | " + " | ".join(entry(lost.get((name, *panel), [])) for panel in panels) + " |")
    seeds = sorted({len(lost[key]) for key in lost if key[0] in EXPLORERS})
    return [*lines, "", f"Seeds a number of Vowpal Wabbit: {', '.join(map(str, seeds))}."]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret_vowpal", description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="+", choices=("A", "B"), default=["B", "A"])
    parser.add_argument("--explorer", nargs="+", choices=EXPLORERS, default=list(EXPLORERS))
    parser.add_argument("--delay", type=int, nargs="+", default=[0, 1000])
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--horizon", type=int, default=200_000, help="rounds of the streams; the first are played")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--first-seed", type=int, default=2000)
    parser.add_argument("--csv", type=Path, help="runs are added here; what is in it already is not run again")
    return parser.parse_args(argv)


def read(path: Path | None) -> list[dict[str, str]]:
    """The runs of a file; none where there is no file."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; 0, or 1 where Vowpal Wabbit is not installed."""
    options = parse(argv)
    try:
        import vowpalwabbit  # noqa: F401
    except ImportError:
        print("vowpalwabbit: expected the package, found none: uv pip install vowpalwabbit", file=sys.stderr)
        return 1
    world, runs = environment(), read(options.csv)
    done = {tuple(run[name] for name in COLUMNS[:5]) for run in runs}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for scenario in options.scenario:
            for delay in options.delay:
                for explorer in options.explorer:
                    key = (scenario, explorer, str(delay), str(options.rounds), str(seed))
                    if key in done:
                        continue
                    start = time.process_time()
                    lost = play_vowpal(
                        world,
                        scenario,
                        explorer,
                        rounds=options.rounds,
                        horizon=options.horizon,
                        delay=delay,
                        seed=seed,
                    )
                    spent = time.process_time() - start
                    runs.append(dict(zip(COLUMNS, (*key, f"{lost:.1f}", f"{spent:.1f}"), strict=True)))
                    print(f"{scenario} {explorer:12} {delay:5d} {seed} {lost:10.1f} {spent:8.1f} s", flush=True)
                    if options.csv:
                        with options.csv.open("w", newline="") as file:
                            rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                            rows.writeheader()
                            rows.writerows(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

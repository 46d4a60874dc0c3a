"""The regret table as docs/regret.md: means with standard errors, curves as pictures, all runs as CSV.

Invariant: the page is made from the cells alone, so that the CSV written with it gives the same page again.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandits.simulator.regret_scenarios import SCENARIOS

POINTS = 20  # of a curve
OURS = "randomized_ucb"
_COLUMNS = ("scenario", "policy", "parameter", "delay", "rounds", "seed")


@dataclass(frozen=True, eq=False)
class Cell:
    """One policy in one scenario.

    Attributes:
        scenario, policy: names.
        parameter: of the policy.
        delay: rounds.
        rounds: T.
        curves: cumulative regret, float64 of shape (seeds, POINTS).
        seconds: of all runs; 0 if they were read from a file.
    """

    scenario: str
    policy: str
    parameter: float
    delay: int
    rounds: int
    curves: np.ndarray
    seconds: float = 0.0

    @property
    def final(self) -> float:
        """Mean regret at the end."""
        return float(self.curves[:, -1].mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over seeds; NaN of one seed."""
        seeds = len(self.curves)
        return float(self.curves[:, -1].std(ddof=1) / seeds**0.5) if seeds > 1 else float("nan")


def label(cell: Cell) -> str:
    """Name and parameter, where there is one."""
    return f"{cell.policy} {cell.parameter:g}" if cell.parameter else cell.policy


def write_csv(path: Path, cells: Sequence[Cell], first_seed: int) -> None:
    """One row for each run: cumulative regret at POINTS equal steps."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*_COLUMNS, *(f"regret_{(at + 1) * 100 // POINTS}pct" for at in range(POINTS))])
        for cell in cells:
            head = [cell.scenario, cell.policy, cell.parameter, cell.delay, cell.rounds]
            for seed, curve in enumerate(cell.curves, first_seed):
                rows.writerow([*head, seed, *(f"{value:.1f}" for value in curve)])


def read(path: Path) -> list[Cell]:
    """The cells of a file of `write_csv`, in its order."""
    runs: dict[tuple[str, str, float, int, int], list[list[float]]] = {}
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for scenario, name, parameter, delay, rounds, _, *curve in rows:
            key = (scenario, name, float(parameter), int(delay), int(rounds))
            runs.setdefault(key, []).append([float(value) for value in curve])
    return [Cell(*key, np.array(curves)) for key, curves in runs.items()]


def write(docs: Path, cells: Sequence[Cell], first_seed: int, beside: Sequence[str] = ()) -> None:
    """Write regret.md, regret.csv and the pictures into a docs folder; `beside` are lines below the tables."""
    write_csv(docs / "regret.csv", cells, first_seed)
    published = [panel for panel in _panels(cells) if panel[0] in "ABC" and panel[1] != 100]
    others = [panel for panel in _panels(cells) if panel[0] not in "ABC"]
    draw(docs / "images" / "regret-published.png", cells, published)
    draw(docs / "images" / "regret-scenarios.png", cells, others)
    before = (docs / "regret.md").read_text().partition("<!-- tables -->")[0]
    (docs / "regret.md").write_text("\n".join([f"{before}<!-- tables -->", *tables(cells), *beside]) + "\n")


def tables(cells: Sequence[Cell]) -> list[str]:
    """The tables in Markdown: A, B and C by delay, then the other scenarios; the best of each column is bold."""
    lines = []
    for title, panels in (
        ("A, B and C", [panel for panel in _panels(cells) if panel[0] in "ABC"]),
        ("Other scenarios", [panel for panel in _panels(cells) if panel[0] not in "ABC"]),
    ):
        by = {(cell.scenario, cell.delay, cell.policy): cell for cell in cells}
        heads = [f"{name}, {delay}" if name in "ABC" else name for name, delay in panels]
        lines += ["", f"## {title}", "", "| policy | " + " | ".join(heads) + " |"]
        lines += ["|---|" + "---:|" * len(panels)]
        for name in dict.fromkeys(cell.policy for cell in cells):
            row = [_entry(by.get((*panel, name)), by, panel) for panel in panels]
            lines.append(f"| `{name}` | " + " | ".join(row) + " |")
    seeds = sorted({len(cell.curves) for cell in cells})
    rounds = sorted({cell.rounds for cell in cells})
    lines += ["", f"Rounds: {', '.join(f'{r:,}' for r in rounds)}. Seeds a number: {', '.join(map(str, seeds))}."]
    about = [f"- `{name}`: {SCENARIOS[name].about}." for name in dict.fromkeys(cell.scenario for cell in cells)]
    return [*lines, "", *about]


def entry(finals: Sequence[float]) -> str:
    """Mean and standard error over seeds; the mean alone of one seed, nothing of none."""
    if not finals:
        return ""
    mean = f"{np.mean(finals):,.0f}"
    return f"{mean} ± {np.std(finals, ddof=1) / len(finals) ** 0.5:,.0f}" if len(finals) > 1 else mean


def _entry(cell: Cell | None, by: dict[tuple[str, int, str], Cell], panel: tuple[str, int]) -> str:
    if cell is None:
        return ""
    others = [other.final for key, other in by.items() if key[:2] == panel]
    text = entry(cell.curves[:, -1].tolist())
    return f"**{text}**" if cell.final == min(others) and len(others) > 1 else text


def _panels(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    order = list(SCENARIOS)
    return sorted({(c.scenario, c.delay) for c in cells}, key=lambda panel: (order.index(panel[0]), panel[1]))


def draw(path: Path, cells: Sequence[Cell], panels: Sequence[tuple[str, int]]) -> None:
    """Curves of cumulative regret, one panel for each scenario and delay; ours is the thick black line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in dict.fromkeys(cell.policy for cell in cells) if name != OURS]
    pairs = pyplot.get_cmap("tab20").colors
    colours = dict(zip(names, pairs[::2] + pairs[1::2], strict=False))
    columns = min(3, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        shown = [cell for cell in cells if (cell.scenario, cell.delay) == panel]
        for cell in shown:
            ends = np.linspace(0, cell.rounds, POINTS + 1) / 1000
            mean = np.concatenate([[0.0], cell.curves.mean(0)]) / 1000
            style = {"color": "black", "linewidth": 2.5} if cell.policy == OURS else {"color": colours[cell.policy]}
            axis.plot(ends, mean, label=cell.policy, **style)
        fair = sorted(cell.final for cell in shown)[len(shown) * 2 // 3]
        axis.set(title=f"{panel[0]}, delay {panel[1]}", ylim=(0, 1.15 * fair / 1000))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set(xlabel="round (thousand)", ylabel="regret (thousand clicks)")
    named = {
        name: handle for axis in axes.flat for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)

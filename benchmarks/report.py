"""Results as a table on the terminal, as JSON, and as docs/benchmarks.md with pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from benchmarks.measure import Result

Measured = Mapping[str, tuple[ModuleType, Sequence[Result]]]
_BARS_A_UNIT = 2  # fewer are no picture


def text(measured: Measured, machine: str) -> str:
    lines = [machine]
    for module, results in measured.values():
        lines += ["", module.TITLE]
        lines += [
            f"  {r.name:<46}{_number(r.value):>12} {r.unit:<9}{_spread(r)}  {r.note}".rstrip() for r in results
        ]
        if not results:
            lines.append("  not measured: its data is not here")
    return "\n".join(lines)


def as_json(measured: Measured, machine: str) -> str:
    results = {name: [asdict(result) for result in results] for name, (_, results) in measured.items()}
    return json.dumps({"machine": machine, "results": results}, indent=2)


def write(measured: Measured, machine: str, folder: Path) -> None:
    """Write docs/benchmarks.md and its pictures into a docs folder."""
    lines = [
        "# Benchmarks",
        "",
        f"Machine: {machine}.",
        "",
        "`freshet bench` measures all of this anew; `make bench ARGS=--write` writes this page.",
        "Contenders run interleaved; a number is the median of the rounds, beside it the smallest and the largest.",
        "Results are compared with a reference within the run. Ratios travel between machines, numbers do not.",
        "Regret of the policies is on [a page of its own](regret.md), and so is [Kafka mode](kafka-benchmarks.md).",
    ]
    for name, (module, results) in measured.items():
        lines += ["", f"## {module.TITLE}", "", module.ABOUT, ""]
        lines += ["| what | median | rounds | |", "|---|---:|---|---|"]
        lines += [f"| {r.name} | {_number(r.value)} {r.unit} | {_spread(r)} | {r.note} |" for r in results]
        for picture in _draw(name, results, folder / "images"):
            lines += ["", f"![{module.TITLE}](images/{picture})"]
    folder.mkdir(exist_ok=True)
    (folder / "benchmarks.md").write_text("\n".join(lines) + "\n")


def _draw(name: str, results: Sequence[Result], folder: Path) -> list[str]:
    """One bar chart for each unit of a benchmark; the names of the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for unit in dict.fromkeys(result.unit for result in results):
        bars = [result for result in results if result.unit == unit]
        if len(bars) < _BARS_A_UNIT or unit in ("x", ""):
            continue
        figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.35 * len(bars)), layout="constrained")
        values = [bar.value for bar in bars]
        spread = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
        axes.barh([bar.name for bar in bars], values, xerr=spread, color="#4477aa", ecolor="#222222", capsize=2)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        picture = f"benchmark-{name}-{unit.replace('/', '-per-')}.png"
        figure.savefig(folder / picture, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
        drawn.append(picture)
    return drawn


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(result: Result) -> str:
    return f"[{_number(result.low)} .. {_number(result.high)}]" if result.low != result.high else ""

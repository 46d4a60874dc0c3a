"""Curves of one or more runs of held-out users as a picture: reward, items shown, and new items found.

Invariant: every point is a number of the runs' own `--json` results.
"""

from pathlib import Path
from typing import Any

import numpy as np

from streams.corpus.errors import optional_library

_SMOOTHED = 3  # points of the reward curve taken together


def draw_runs(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw runs beside each other as SVG or PNG, by the name of the file.

    Args:
        runs: results of `freshet simulate --world --json` by name.
        path: of the picture.

    Raises:
        MissingLibrary: matplotlib is not installed.
        ValueError: the name ends in something else than .svg or .png.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"expected a name ending in .svg or .png, got {path.suffix or 'no suffix'}")
    matplotlib = optional_library("matplotlib", needed_for="the picture", extra="graph")
    figures = optional_library("matplotlib.figure", needed_for="the picture", extra="graph")
    with matplotlib.rc_context({"svg.hashsalt": "freshet", "font.size": 9}):
        figure = figures.Figure(figsize=(12, 4), layout="constrained")
        reward, shown, new = figure.subplots(1, 3)
        for name, run in runs.items():
            _reward(reward, name, run["curve"])
            _items(shown, name, run["exposure"]["curve"], "shown_20")
            _items(new, name, run["exposure"]["curve"], "new_shown_20")
        last = next(reversed(runs.values()))
        reward.axhline(last["same_for_all"], color="black", linestyle=":", label="best-liked items, for all")
        published = last["exposure"]["curve"]
        new.plot(*_columns(published, "new"), color="gray", linestyle="--", label="new items published")
        top = 1.08 * max(reward.dataLim.y1, last["same_for_all"])
        reward.set(title="expected clicks a slate", xlabel="slates", ylim=(0, top))
        shown.set(title="items shown 20 times or more", xlabel="slates", ylim=(0, None))
        new.set(title="new items shown 20 times or more", xlabel="slates", ylim=(0, None))
        for axis in (reward, shown, new):
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.locator_params(axis="x", nbins=5)
        handles = [*reward.get_lines(), new.get_lines()[-1]]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def _reward(axis: Any, name: str, curve: list[dict[str, float]]) -> None:
    """Means over neighbouring points, weighted by their slates."""
    weight = np.array([point["slates"] for point in curve], float)
    value = np.array([point["expected"] for point in curve])
    groups = np.arange(len(curve)) // _SMOOTHED
    slates = np.bincount(groups, weight)
    mean = np.bincount(groups, weight * value) / np.maximum(slates, 1)
    axis.plot(np.cumsum(slates) - slates / 2, mean, marker=".", label=name)


def _items(axis: Any, name: str, curve: list[dict[str, int]], column: str) -> None:
    axis.plot(*_columns(curve, column), label=name)


def _columns(curve: list[dict[str, int]], column: str) -> tuple[list[int], list[int]]:
    return [point["slates"] for point in curve], [point[column] for point in curve]

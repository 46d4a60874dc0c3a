"""A curve in a terminal: a column a time bucket, and marks for what it is compared with.

Invariant: a column's height is the bucket's own value; a bucket without slates stays empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from server.demo.tally import Part

_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Glyphs:
    """What a chart is drawn with: nine fillings of a cell from empty to full, and two marks."""

    fill: str = _EIGHTHS
    best: str = "╌"
    uniform: str = "┄"


PLAIN = Glyphs(fill="    ....#", best="-", uniform="-")  # where the terminal has no block characters

_REWARD, _BELOW, _BEST, _UNIFORM = "green", "bright_black", "yellow", "magenta"


def draw(parts: Sequence[Part | None], *, height: int, wide: int, glyphs: Glyphs) -> list[Text]:
    """Rows of the chart, top first, with an axis on the left.

    Rewards are columns of `wide` cells, green above what uniform slates are worth; the best possible is marked.
    """
    top = 1.08 * max((max(part.best, part.reward) for part in parts if part), default=1.0)
    rows = []
    for row in range(height - 1, -1, -1):
        line = Text(f"{top * (row + 0.5) / height:5.2f} ", style="dim")
        for part in parts:
            glyph, style = _cell(part, row, height / top, glyphs)
            line.append(glyph * wide, style)
        rows.append(line)
    return rows


def legend(bucket_s: float, glyphs: Glyphs) -> Text:
    """What the signs of the chart mean."""
    full = glyphs.fill[8]
    return Text.assemble(
        (f"clicks a slate, column = {bucket_s:.1f} s: ", "dim"),
        (full, _REWARD),
        (" clicked  ", "dim"),
        (full, _BELOW),
        (" uniform  ", "dim"),
        (glyphs.best, _BEST),
        (" best possible", "dim"),
    )


def _cell(part: Part | None, row: int, cells_per_unit: float, glyphs: Glyphs) -> tuple[str, str]:
    if part is None:
        return " ", ""
    filled = part.reward * cells_per_unit - row
    uniform = int(part.uniform * cells_per_unit)
    if filled >= 1 / 8:
        color = _BELOW if row <= uniform else _REWARD
        return glyphs.fill[min(8, int(filled * 8))], color
    if row == int(part.best * cells_per_unit):
        return glyphs.best, _BEST
    if row == uniform:
        return glyphs.uniform, _UNIFORM
    return " ", ""


def bar(value: float, full: float, *, width: int, glyphs: Glyphs) -> str:
    """A horizontal bar of `width` cells at most."""
    cells = round(width * min(1.0, value / full)) if full > 0 else 0
    return glyphs.fill[8] * cells + " " * (width - cells)

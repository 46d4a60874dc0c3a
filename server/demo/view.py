"""The live view of a run, on a terminal or as lines.

Invariant: it shows what the tally holds at that moment; it decides nothing and adds nothing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.demo.chart import PLAIN, Glyphs, bar, draw, legend
from server.demo.summary import gap_closed
from server.demo.tally import Part, Tally

REFRESH_S = 0.25
LINE_EVERY_S = 2.0
_RECENT_S = 2.0
_LOWEST, _HIGHEST, _OTHER_LINES = 4, 12, 13
_AXIS, _WIDEST = 6, 100
_SHORTEST_BUCKET_S = 0.5  # shorter ones are mostly noise
_BAR = 30

Show = Callable[[float], None]  # told the seconds since the start


@contextmanager
def showing(tally: Tally, *, seconds: float, title: str, quiet: bool) -> Iterator[Show]:
    """Show a run; yields what to call every `REFRESH_S`.

    Args:
        tally: of the run.
        seconds: how long it will take.
        title: first line.
        quiet: show nothing.
    """
    if quiet:
        yield lambda at_s: None
    elif not sys.stdout.isatty():
        click.echo(title)
        yield _Lines(tally).show
    else:
        console = Console()
        glyphs = Glyphs() if console.encoding.startswith("utf") else PLAIN
        with Live(console=console, auto_refresh=False) as live:
            yield lambda at_s: live.update(
                picture(tally, at_s, seconds=seconds, title=title, size=console.size, glyphs=glyphs), refresh=True
            )


class _Lines:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._next_s = LINE_EVERY_S

    def show(self, at_s: float) -> None:
        if at_s < self._next_s:
            return
        part = self._tally.part(at_s - LINE_EVERY_S, at_s)
        self._next_s += LINE_EVERY_S
        if part is None:
            click.echo(f"{at_s:6.1f} s  no slates")
            return
        median, high = self._tally.latency_ms(recent=True)
        click.echo(
            f"{at_s:6.1f} s  {part.reward:.3f} clicks a slate (uniform {part.uniform:.3f}, best {part.best:.3f})"
            f"  explored {part.explored_share:4.0%}  p50 {median:.1f} ms  p99 {high:.1f} ms"
            f"  {self._tally.counts.events:,} events  errors {self._tally.counts.errors}"
        )


def picture(
    tally: Tally, at_s: float, *, seconds: float, title: str, size: ConsoleDimensions, glyphs: Glyphs
) -> Group:
    """What a terminal shows at a moment.

    Args:
        tally: of the run.
        at_s: the moment, seconds since the start.
        seconds: how long the run will take.
        title: first line.
        size: of the terminal.
        glyphs: what the terminal can draw.
    """
    columns = max(10, min(_WIDEST, size.width - _AXIS - 1))
    height = max(_LOWEST, min(_HIGHEST, size.height - _OTHER_LINES))
    wide = max(1, -(-columns // max(1, int(seconds / _SHORTEST_BUCKET_S))))
    buckets = columns // wide
    recent = tally.part(at_s - _RECENT_S, at_s)
    rows = draw(tally.parts(seconds, buckets), height=height, wide=wide, glyphs=glyphs)
    end = f"{seconds:.0f} s"
    axis = Text(f"{'':{_AXIS}}{'0 s':<{buckets * wide - len(end)}}{end}", style="dim")
    lines = [Text(title, style="bold"), legend(seconds / buckets, glyphs), *rows, axis, Text()]
    if recent is None:
        return Group(*lines, Text("waiting for the first slates"))
    return Group(*lines, _bars(recent, glyphs), Text(), _numbers(tally, recent, at_s))


def _bars(part: Part, glyphs: Glyphs) -> Table:
    grid = Table.grid(padding=(0, 2))
    full = max(part.best, part.reward)
    for name, value, style in (
        ("uniform", part.uniform, "magenta"),
        ("now", part.reward, "bold green"),
        ("best possible", part.best, "yellow"),
    ):
        filled = Text(bar(value, full, width=_BAR, glyphs=glyphs), style=style)
        grid.add_row(Text(name), filled, Text(f"{value:.3f}", style=style))
    return grid


def _numbers(tally: Tally, part: Part, at_s: float) -> Table:
    (median, high), (fresh, stale), counts = tally.latency_ms(recent=True), tally.freshness_ms(), tally.counts
    grid = Table.grid(padding=(0, 2))
    for name, value, other, told in (
        ("Recommend", f"p50 {median:.1f} ms  p99 {high:.1f} ms", "explored", f"{part.explored_share:.0%} of slots"),
        (
            "feedback to served",
            f"p50 {fresh:.1f} ms  p99 {stale:.1f} ms",
            "uniform to best",
            f"{gap_closed(part):.0%} of the way",
        ),
        (
            "events",
            f"{counts.events:,} ({counts.events / at_s:,.0f} a second)",
            "parameters at",
            f"{counts.position:,}",
        ),
        ("requests", f"{counts.calls:,}", "errors", f"{counts.errors}"),
    ):
        grid.add_row(Text(name, style="dim"), value, Text(other, style="dim"), told)
    return grid

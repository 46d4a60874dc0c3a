"""What a run of simulated users amounts to: numbers for a program, and a table for a person."""

from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from server.demo.tally import Part, Tally

PARTS = 5  # of the run: the first and the last are compared
CURVE_POINTS = 60


@dataclass(frozen=True)
class Ends:
    """The first and the last part of a run."""

    first: Part
    last: Part


def ends(tally: Tally, seconds: float) -> Ends | None:
    """First and last part in which something was shown, None if there are not two such parts."""
    seen = [part for part in tally.parts(seconds, PARTS) if part is not None]
    return Ends(seen[0], seen[-1]) if len(seen) > 1 else None


def summarize(tally: Tally, seconds: float) -> dict[str, Any]:
    """Everything measured, as plain values. Rewards are clicks a slate, times milliseconds where named so.

    `reward` is what users clicked, `expected` what the click model expects of the slates shown, `uniform` and
    `best` what it expects of uniformly random and of the best possible slates for the same users. `regret` is best
    less expected, added up over all slates; `first` and `last` are fifths of the run, `whole` is all of it.
    """
    counts, (median, high), (fresh, stale) = tally.counts, tally.latency_ms(), tally.freshness_ms()
    found, whole = ends(tally, seconds), tally.part(0.0, float("inf"))
    curve = [part for part in tally.parts(seconds, CURVE_POINTS) if part is not None]
    return {
        "seconds": seconds,
        "policy": tally.policy,
        "graph_version": tally.graph_version,
        "whole": _plain(replace(whole, end_s=seconds)) if whole else None,
        "regret": (whole.best - whole.expected) * whole.slates if whole else None,
        "first": _plain(found.first) if found else None,
        "last": _plain(found.last) if found else None,
        "gap_closed": gap_closed(found.last) if found else None,
        "requests": counts.calls,
        "slates": counts.slates,
        "impressions": counts.impressions,
        "clicks": counts.clicks,
        "events": counts.events,
        "events_per_second": counts.events / seconds,
        "errors": counts.errors,
        "error_examples": dict(counts.examples),
        "latency_ms": {"p50": median, "p99": high},
        "freshness_ms": {"p50": fresh, "p99": stale},
        "parameters_position": counts.position,
        "curve": [
            {
                "at_s": part.end_s,
                "slates": part.slates,
                "reward": part.reward,
                "expected": part.expected,
                "uniform": part.uniform,
                "best": part.best,
            }
            for part in curve
        ],
    }


def gap_closed(part: Part) -> float:
    """How much of the way from uniform to the best possible the shown slates are, in expectation."""
    gap = part.best - part.uniform
    return (part.expected - part.uniform) / gap if gap > 0 else 0.0


def table(tally: Tally, seconds: float) -> Table:
    """The summary for a person."""
    found = ends(tally, seconds)
    grid = Table(title=f"{tally.policy or 'no reply'} after {seconds:.0f} s", title_justify="left", box=None)
    grid.add_column("clicks a slate", style="bold")
    for name in ("first part", "last part"):
        grid.add_column(name, justify="right")
    if found:
        first, last = found.first, found.last
        rows = [
            ("clicked", first.reward, last.reward),
            ("expected of the slates shown", first.expected, last.expected),
            ("uniformly random slates", first.uniform, last.uniform),
            ("best possible slates", first.best, last.best),
        ]
        for name, early, late in rows:
            grid.add_row(name, f"{early:.3f}", f"{late:.3f}")
        grid.add_row("regret", f"{first.regret_share:.0%}", f"{last.regret_share:.0%}")
        grid.add_row("from uniform to the best", f"{gap_closed(first):.0%}", f"{gap_closed(last):.0%}")
        grid.add_row("explored", f"{first.explored_share:.0%}", f"{last.explored_share:.0%}")
    return grid


def totals(tally: Tally, seconds: float) -> Table:
    """Calls, events, times and errors for a person."""
    counts, (median, high), (fresh, stale) = tally.counts, tally.latency_ms(), tally.freshness_ms()
    grid = Table.grid(padding=(0, 2))
    grid.add_row("requests", f"{counts.calls:,}")
    grid.add_row("events", f"{counts.events:,} ({counts.events / seconds:,.0f} a second)")
    grid.add_row("Recommend", f"p50 {median:.1f} ms, p99 {high:.1f} ms")
    grid.add_row("feedback to served", f"p50 {fresh:.1f} ms, p99 {stale:.1f} ms")
    style = "bold red" if counts.errors else "green"
    grid.add_row("errors", f"[{style}]{counts.errors}[/]")
    for message, times in counts.examples.items():
        grid.add_row("", f"{times} x {message}")
    return grid


def _plain(part: Part) -> dict[str, float]:
    return {**vars(part), "regret_share": part.regret_share}

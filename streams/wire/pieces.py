"""Columns of events cut and put together, so that what was read in two ways is again in the order of its log."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from bandits.events import Clicks, Impressions

Columns = TypeVar("Columns", Impressions, Clicks)

_OF_ITEMS, _OF_CONTEXTS = ("item_ids", "position"), ("context_cluster", "context_x")
_ENDS = {"item_ends": "item_ids", "context_ends": "context_cluster"}


def part_of(events: Columns, start: int, stop: int) -> Columns:
    """Events start:stop; the whole, not a copy of it, if that is all of them."""
    if start == 0 and stop == len(events):
        return events
    if isinstance(events, Clicks):
        return type(events)(**{name: _cut(column, start, stop) for name, column in _columns(events)})
    items, contexts = _range(events.item_ends, start, stop), _range(events.context_ends, start, stop)
    cut: dict[str, Any] = {}
    for name, column in _columns(events):
        if name in _OF_ITEMS:
            cut[name] = _cut(column, *items)
        elif name in _OF_CONTEXTS:
            cut[name] = _cut(column, *contexts)
        elif name in _ENDS:
            cut[name] = column[start:stop] - (items if name == "item_ends" else contexts)[0]
        else:
            cut[name] = _cut(column, start, stop)
    return type(events)(**cut)


def together(parts: Sequence[Columns]) -> Columns:
    """All events of one part or more, in that order."""
    parts = [part for part in parts if len(part)] or list(parts[:1])
    if len(parts) == 1:
        return parts[0]
    whole: dict[str, Any] = {}
    for name, first in _columns(parts[0]):
        columns = [getattr(part, name) for part in parts]
        if name in _ENDS:
            sizes: list[int] = [len(getattr(part, _ENDS[name])) for part in parts]
            shifts = np.cumsum([0, *sizes[:-1]])
            columns = [column + shift for column, shift in zip(columns, shifts, strict=True)]
        if first is None:
            whole[name] = None
        elif isinstance(first, np.ndarray):
            whole[name] = np.concatenate(columns)
        else:
            whole[name] = [value for column in columns for value in column]
    return type(parts[0])(**whole)


def _columns(events: Impressions | Clicks) -> list[tuple[str, Any]]:
    return [(field.name, getattr(events, field.name)) for field in fields(events)]


def _cut(column: Any, start: int, stop: int) -> Any:
    return None if column is None else column[start:stop]


def _range(ends: Any, start: int, stop: int) -> tuple[int, int]:
    return (int(ends[start - 1]) if start else 0), (int(ends[stop - 1]) if stop else 0)

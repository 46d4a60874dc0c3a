"""Compiled scans of the records of a source topic: protobuf or JSON, one event or many, into columns in one pass.

Promises: a record is taken whole or not at all: with any unusual event in it (see `protobuf_events`, `json_events`)
it is handed over, and nothing of it is left. Rows are in the order of the records.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from bandits import numba_memory
from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer, store
from streams.wire.fields import extent, with_room
from streams.wire.json_events import behind_click, behind_impression
from streams.wire.json_values import (
    CLOSE,
    NOT_A_WORD,
    OPEN,
    OPEN_LIST,
    behind_blanks,
    element,
    member,
    opens,
)
from streams.wire.places import Work, clicked_places, shown_places, vocabulary_places
from streams.wire.protobuf_events import click_is_read, impression_is_read, is_batch
from streams.wire.sinks import (
    CLICK_COLUMNS,
    DISTINCT,
    DONE,
    ELEMENTS,
    FEWEST_BYTES,
    HAND_OVER,
    INDEX,
    RECORD,
    ROWS,
    SLATE_COLUMNS,
    SLATES,
    TRY_JSON,
    TRY_PROTOBUF,
)

_FIRST_TABLE = 1024


@inner
def _json_events(data, at, end, words):  # type: ignore[no-untyped-def]
    """Where the events of a record start, and in what: one alone 0, a list 1, a list in an object 2.

    A list starts behind its bracket. The place is -1 if there are no events.
    """
    at = behind_blanks(data, at, end)
    if at >= end or load(data, at) != OPEN:
        return opens(data, at, end, OPEN_LIST), 1
    field, value_at = member(data, at + 1, end, True, words)
    if value_at >= 0 and field > NOT_A_WORD:
        return opens(data, value_at, end, OPEN_LIST), 2
    return at, 0


@inner
def _ends(data, at, end, nesting):  # type: ignore[no-untyped-def]
    """True if nothing but the end of the record is behind its events."""
    at = behind_blanks(data, at, end)
    if nesting == 2 and at < end and load(data, at) == CLOSE:
        return behind_blanks(data, at + 1, end) == end
    return nesting < 2 and at == end


@inner
def _impressions_of_json(data, at, end, record, now_ms, bounds, words, out, work):  # type: ignore[no-untyped-def]
    """Write the impressions of a record; False if it is unusual."""
    at, nesting = _json_events(data, at, end, words.batch)
    index, goes_on = 0, at >= 0
    while goes_on:
        if nesting:
            goes_on, at = element(data, at, end, index == 0)
        if goes_on:
            store(work.serial, 0, load(work.serial, 0) + 1)
            at = behind_impression(data, at, end, now_ms, bounds, words, out, work)
            if at < 0 or index == bounds.events:
                return False
            first = (load(out.ended, SLATES) - 1) * SLATE_COLUMNS
            store(out.slate, first + RECORD, record)
            store(out.slate, first + INDEX, index)
            index, goes_on = index + 1, nesting > 0
    return at >= 0 and index > 0 and _ends(data, at, end, nesting)


@inner
def _impressions_of_protobuf(data, at, end, record, now_ms, bounds, words, out, work):  # type: ignore[no-untyped-def]
    """Write the impressions of a record; False if it is unusual."""
    batch = is_batch(data, at, end)
    index, fine = 0, at < end
    while fine and at < end and index < bounds.events:
        start, stop = extent(data, at + 1, end) if batch else (at, end)
        store(work.serial, 0, load(work.serial, 0) + 1)
        fine = impression_is_read(data, start, stop, now_ms, bounds, words.kind, out, work)
        if fine:
            first = (load(out.ended, SLATES) - 1) * SLATE_COLUMNS
            store(out.slate, first + RECORD, record)
            store(out.slate, first + INDEX, index)
        index, at = index + 1, stop
    return fine and at == end


@inner
def _scan_impressions(data, ends, now_ms, bounds, words, out, outcome):  # type: ignore[no-untyped-def]
    """Impressions of all records that are to be tried.

    Args:
        data: uint8, the records' bytes one after the other; escapes in JSON strings are resolved in it.
        ends: int64 of shape (n_records,), where each ends.
        now_ms: int64 of shape (n_records,), when the log took each.
        bounds: a `Bounds`.
        words: a `Vocabulary`.
        out: a fresh `ShownSink` with room for `data`.
        outcome: uint8 of shape (n_records,), see `streams.wire.sinks`; what was tried becomes DONE or HAND_OVER.
    """
    bytes_, places, known = pointer(data), shown_places(out), vocabulary_places(words)
    table = np.zeros(_FIRST_TABLE, np.int32)
    weights, serial = np.empty(bounds.clusters), np.zeros(1, np.int64)
    for record in range(len(ends)):
        form = outcome[record]
        if form not in (TRY_PROTOBUF, TRY_JSON):
            continue
        at, end = ends[record - 1] if record else 0, ends[record]
        slates, rows, elements = out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS]
        table = with_room(table, out.known, out.ended[DISTINCT], (end - at) // FEWEST_BYTES)
        work = Work(pointer(table), len(table) - 1, pointer(weights), pointer(serial))
        if form == TRY_JSON:
            fine = _impressions_of_json(bytes_, at, end, record, now_ms[record], bounds, known, places, work)
        else:
            fine = _impressions_of_protobuf(bytes_, at, end, record, now_ms[record], bounds, known, places, work)
        outcome[record] = DONE if fine else HAND_OVER
        if not fine:
            out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS] = slates, rows, elements


@inner
def _clicks_of_json(data, at, end, record, now_ms, bounds, words, default, out):  # type: ignore[no-untyped-def]
    """Write the clicks of a record; False if it is unusual."""
    at, nesting = _json_events(data, at, end, words.batch)
    index, goes_on = 0, at >= 0
    while goes_on:
        if nesting:
            goes_on, at = element(data, at, end, index == 0)
        if goes_on:
            at = behind_click(data, at, end, now_ms, bounds, words, default, out)
            if at < 0 or index == bounds.events:
                return False
            first = (load(out.ended, 0) - 1) * CLICK_COLUMNS
            store(out.click, first + RECORD, record)
            store(out.click, first + INDEX, index)
            index, goes_on = index + 1, nesting > 0
    return at >= 0 and index > 0 and _ends(data, at, end, nesting)


@inner
def _clicks_of_protobuf(data, at, end, record, now_ms, bounds, words, default, out):  # type: ignore[no-untyped-def]
    """Write the clicks of a record; False if it is unusual."""
    batch = is_batch(data, at, end)
    index, fine = 0, at < end
    while fine and at < end and index < bounds.events:
        start, stop = extent(data, at + 1, end) if batch else (at, end)
        fine = click_is_read(data, start, stop, now_ms, bounds, words.kind, default, out)
        if fine:
            first = (load(out.ended, 0) - 1) * CLICK_COLUMNS
            store(out.click, first + RECORD, record)
            store(out.click, first + INDEX, index)
        index, at = index + 1, stop
    return fine and at == end


@inner
def _scan_clicks(data, ends, now_ms, bounds, words, default, out, outcome):  # type: ignore[no-untyped-def]
    """Clicks of all records that are to be tried.

    Args:
        data: as in `scan_impressions`.
        ends: as in `scan_impressions`.
        now_ms: as in `scan_impressions`.
        bounds: a `Bounds`.
        words: a `Vocabulary`.
        default: what `words.kind` would say of the kind of a click that names none; 0 if that is not declared.
        out: a fresh `ClickedSink` with room for `data`.
        outcome: as in `scan_impressions`.
    """
    bytes_, places, known = pointer(data), clicked_places(out), vocabulary_places(words)
    for record in range(len(ends)):
        form = outcome[record]
        if form not in (TRY_PROTOBUF, TRY_JSON):
            continue
        at, end = ends[record - 1] if record else 0, ends[record]
        clicks = out.ended[0]
        if form == TRY_JSON:
            fine = _clicks_of_json(bytes_, at, end, record, now_ms[record], bounds, known, default, places)
        else:
            fine = _clicks_of_protobuf(bytes_, at, end, record, now_ms[record], bounds, known, default, places)
        outcome[record] = DONE if fine else HAND_OVER
        if not fine:
            out.ended[0] = clicks


def _entries(sources: int) -> tuple[Any, Any]:
    """The scans as they are called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def scan_impressions(data, ends, now_ms, bounds, words, out, outcome):  # type: ignore[no-untyped-def]
        if sources >= 0:  # a value from outside the function becomes part of the key in Numba's cache
            _scan_impressions(data, ends, now_ms, bounds, words, out, outcome)

    @njit(cache=True, nogil=True)
    def scan_clicks(data, ends, now_ms, bounds, words, default, out, outcome):  # type: ignore[no-untyped-def]
        if sources >= 0:
            _scan_clicks(data, ends, now_ms, bounds, words, default, out, outcome)

    return scan_impressions, scan_clicks


def fingerprint(sources: Iterable[Path]) -> int:
    """A number that changes with the text of any of these files.

    Numba compiles a function anew when its own file changes, but does not see the files of what it calls.
    """
    return zlib.crc32(b"".join(source.read_bytes() for source in sorted(sources)))


scan_impressions, scan_clicks = _entries(
    fingerprint([*Path(__file__).parent.glob("*.py"), Path(numba_memory.__file__)])
)

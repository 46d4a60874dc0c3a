"""Compiled checks of what a scan has read, shared by the encodings: contexts, times, and a slate as a whole.

Promises: what passes here would pass `streams.validation`; what does not is for it to judge.
"""

import numpy as np

from bandits.numba_inner import inner
from bandits.numba_memory import LANES, equal_lanes, load, store
from bandits.sums import UNIT
from streams.wire.fields import lower_lanes, number_of, number_of_bits
from streams.wire.sinks import (
    CLICK_COLUMNS,
    CONTEXT_END,
    DISTINCT,
    ELEMENTS,
    EVENT_AT,
    EVENT_SIZE,
    ITEM_AT,
    ITEM_SIZE,
    ITEMS_END,
    KIND,
    KNOWN_COLUMNS,
    OCCURRED,
    REQUEST_AT,
    REQUEST_SIZE,
    ROWS,
    SHOWN_IN,
    SLATE_COLUMNS,
    SLATES,
    SURFACE,
)


@inner
def row_is_added(data, id_at, id_end, position, propensity, row, bounds, out, work):  # type: ignore[no-untyped-def]
    """Write a shown item as row number `row`; False if it breaks a rule or its slate has it already."""
    if not (1 <= id_end - id_at <= bounds.id_bytes and position <= bounds.position and 0.0 <= propensity <= 1.0):
        return False
    if row - load(out.ended, ROWS) == bounds.items:
        return False
    distinct, serial = load(out.ended, DISTINCT), load(work.serial, 0)
    number = number_of(data, id_at, id_end, work.table, work.last_slot, distinct, out.known)
    shown = number * KNOWN_COLUMNS + SHOWN_IN
    if number < 0 or (number < distinct and load(out.known, shown) == serial):
        return False
    store(out.ended, DISTINCT, max(distinct, number + 1))
    store(out.known, shown, serial)
    store(out.item, row, np.int32(number))
    store(out.position, row, np.int32(position))
    return True


@inner
def slate_is_added(  # type: ignore[no-untyped-def]
    request_at, request_end, occurred_ms, mode, surface, n_context, row, now_ms, bounds, out, work
):
    """End a slate of the rows up to `row` and of the context that was read last; False if it breaks a rule."""
    element = load(out.ended, ELEMENTS)
    if not (
        row > load(out.ended, ROWS)
        and n_context > 0
        and 1 <= request_end - request_at <= bounds.id_bytes
        and mode <= bounds.mode
        and time_is_fine(occurred_ms, now_ms, bounds)
        and context_is_settled(out.cluster, out.x, work.weights, element, n_context)
    ):
        return False
    slate = load(out.ended, SLATES)
    first = slate * SLATE_COLUMNS
    store(out.slate, first + REQUEST_AT, request_at)
    store(out.slate, first + REQUEST_SIZE, request_end - request_at)
    store(out.slate, first + OCCURRED, occurred_ms)
    store(out.slate, first + ITEMS_END, row)
    store(out.slate, first + CONTEXT_END, element + n_context)
    store(out.slate, first + SURFACE, surface)
    store(out.ended, SLATES, slate + 1)
    store(out.ended, ROWS, row)
    store(out.ended, ELEMENTS, element + n_context)
    return True


@inner
def click_is_added(  # type: ignore[no-untyped-def]
    request_at, request_end, item_at, item_end, event_at, event_end, kind, reward, occurred_ms, now_ms, bounds, out
):
    """Write a click behind what is there; False if it breaks a rule."""
    if not (
        kind >= 0
        and 1 <= request_end - request_at <= bounds.id_bytes
        and 1 <= item_end - item_at <= bounds.id_bytes
        and event_end - event_at <= bounds.id_bytes
        and 0.0 <= reward < np.inf
        and time_is_fine(occurred_ms, now_ms, bounds)
    ):
        return False
    number = load(out.ended, 0)
    first = number * CLICK_COLUMNS
    store(out.click, first + REQUEST_AT, request_at)
    store(out.click, first + REQUEST_SIZE, request_end - request_at)
    store(out.click, first + ITEM_AT, item_at)
    store(out.click, first + ITEM_SIZE, item_end - item_at)
    store(out.click, first + EVENT_AT, event_at)
    store(out.click, first + EVENT_SIZE, event_end - event_at)
    store(out.click, first + OCCURRED, occurred_ms)
    store(out.click, first + KIND, kind)
    store(out.reward, number, reward)
    store(out.ended, 0, number + 1)
    return True


@inner
def time_is_fine(occurred_ms, now_ms, bounds):  # type: ignore[no-untyped-def]
    """True for 0 (unknown) and for a time that is not in the future; how old it is decides the joiner."""
    return 0 <= occurred_ms <= bounds.time_ms and occurred_ms - now_ms <= bounds.skew_ms


@inner
def context_is_settled(clusters, xs, weights, start, n):  # type: ignore[no-untyped-def]
    """Sort the context start:start + n by cluster and round its weights; False if it is not one.

    The clusters are in the column of all contexts, in any order; `weights` (float64) are of this one alone.
    """
    fine, ascending, previous = True, True, np.int32(-1)
    for at in range(n):
        weight = load(weights, at)
        good = (weight > 0.0) & (weight <= 1.0)
        fine &= good
        # As `bandits.context.fixed_point_weights`: half to even, and something never becomes nothing.
        store(xs, start + at, np.int64(max(np.rint(weight * UNIT), 1.0)) if good else 0)
    for at in range(start, start + n):
        cluster = load(clusters, at)
        ascending &= cluster > previous
        previous = cluster
    if ascending or not fine:
        return fine
    if n <= LANES:
        return _sorted_at_once(clusters, xs, start, n)
    for at in range(start + 1, start + n):
        cluster, x, to = load(clusters, at), load(xs, at), at
        while to > start and load(clusters, to - 1) > cluster:
            store(clusters, to, load(clusters, to - 1))
            store(xs, to, load(xs, to - 1))
            to -= 1
        if to > start and load(clusters, to - 1) == cluster:
            return False
        store(clusters, to, cluster)
        store(xs, to, x)
    return True


@inner
def _sorted_at_once(clusters, xs, start, n):  # type: ignore[no-untyped-def]
    """Sort as many clusters as are compared at once, and their x with them; False if two are equal.

    The place of each is how many are below it: nothing is guessed, as it is when they move one by one. They are
    sorted to where the columns have room, behind what is compared: a vector that was just written to in part waits.
    """
    among, twice = (np.uint64(1) << np.uint64(n)) - np.uint64(1), np.uint64(0)
    for at in range(start, start + n):
        cluster = load(clusters, at)
        same = equal_lanes(clusters, start, cluster) & among
        twice |= same & (same - np.uint64(1))
        to = start + LANES + number_of_bits(lower_lanes(clusters, start, cluster) & among)
        store(clusters, to, cluster)
        store(xs, to, load(xs, at))
    for at in range(start, start + n):
        store(clusters, at, load(clusters, at + LANES))
        store(xs, at, load(xs, at + LANES))
    return twice == np.uint64(0)

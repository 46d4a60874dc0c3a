"""Compiled readers of events as JSON.

Promises: an event that is read is one of which `json_format.ParseDict` would have made a message that
`streams.validation` passes, with the same values. Keys are those of the schema or their camelCase, in any order;
unknown ones with a plain value are passed over. Anything else, such as a key that comes twice, null, or a
decimal in a string, makes the event unusual.
"""

import numpy as np

from bandits.numba_inner import inner
from bandits.numba_memory import load, store
from streams.wire.json_values import (
    NO_MEMBER,
    NOT_A_WORD,
    OPEN,
    OPEN_LIST,
    QUOTE,
    behind_scalar,
    decimal,
    element,
    member,
    opens,
    string,
    whole,
    word_at,
)
from streams.wire.settle import click_is_added, row_is_added, slate_is_added
from streams.wire.sinks import ELEMENTS, FORBIDDEN, ROWS, UNNAMED

# Numbers of fields, as in events.proto
_CLUSTERS, _WEIGHTS = 1, 2
_ITEM_ID, _POSITION, _PROPENSITY = 1, 2, 3
_REQUEST_ID, _SHOWN_MS, _CONTEXT, _ITEMS, _POLICY, _MODE, _GRAPH_VERSION, _USER_KEY = range(1, 9)
_SURFACE = 9
_CLICKED_ITEM, _REWARD, _KIND, _CLICKED_MS, _EVENT_ID = range(2, 7)


@inner
def _is_new(seen, field):  # type: ignore[no-untyped-def]
    """True for a field that may come and did not come before; `seen` has a bit for each that did."""
    return field > NOT_A_WORD and not seen >> field & 1


@inner
def _clusters(data, at, end, out, bounds):  # type: ignore[no-untyped-def]
    """Write a list of clusters behind the contexts; how many, and the place behind it."""
    at = opens(data, at, end, OPEN_LIST)
    n, base, goes_on = 0, load(out.ended, ELEMENTS), at >= 0
    while goes_on:
        goes_on, at = element(data, at, end, n == 0)
        if goes_on:
            number, at = whole(data, at, end)
            if at < 0 or number > bounds.cluster_id or n == bounds.clusters:
                return n, -1
            store(out.cluster, base + n, np.int32(number))
            n += 1
    return n, at


@inner
def _weights(data, at, end, work, bounds):  # type: ignore[no-untyped-def]
    """Write a list of weights, rounded to float32 as the schema has them; how many, and the place behind it."""
    at = opens(data, at, end, OPEN_LIST)
    n, goes_on = 0, at >= 0
    while goes_on:
        goes_on, at = element(data, at, end, n == 0)
        if goes_on:
            weight, at = decimal(data, at, end)
            if at < 0 or weight > 2.0 or n == bounds.clusters:
                return n, -1
            store(work.weights, n, np.float64(np.float32(weight)))
            n += 1
    return n, at


@inner
def _context(data, at, end, words, out, work, bounds):  # type: ignore[no-untyped-def]
    """Size of a context and the place behind it."""
    at = opens(data, at, end, OPEN)
    seen, n_clusters, n_weights, first = 0, 0, 0, True
    while at >= 0:
        field, at = member(data, at, end, first, words)
        if field == NO_MEMBER or at < 0:
            break
        first = False
        if field == NOT_A_WORD:
            at = behind_scalar(data, at, end)
            continue
        if not _is_new(seen, field):
            return 0, -1
        seen |= 1 << field
        if field == _CLUSTERS:
            n_clusters, at = _clusters(data, at, end, out, bounds)
        else:
            n_weights, at = _weights(data, at, end, work, bounds)
    return n_clusters, at if n_clusters == n_weights else -1


@inner
def _item(data, at, end, words):  # type: ignore[no-untyped-def]
    """Where the id of a shown item starts and ends, its position and propensity, and the place behind it."""
    at = opens(data, at, end, OPEN)
    seen, id_at, id_end, position, propensity, first = 0, 0, 0, np.int64(0), 0.0, True
    while at >= 0:
        field, at = member(data, at, end, first, words)
        if field == NO_MEMBER or at < 0:
            break
        first = False
        if field == NOT_A_WORD:
            at = behind_scalar(data, at, end)
            continue
        if not _is_new(seen, field):
            return 0, 0, position, propensity, -1
        seen |= 1 << field
        if field == _ITEM_ID:
            id_at, id_end, at = string(data, at, end)
        elif field == _POSITION:
            position, at = whole(data, at, end)
        elif field == _PROPENSITY:
            propensity, at = decimal(data, at, end)
        else:
            return 0, 0, position, propensity, -1
    return id_at, id_end, position, propensity, at


@inner
def _items(data, at, end, words, bounds, out, work):  # type: ignore[no-untyped-def]
    """Write a list of shown items; the row behind the last, and the place behind the list."""
    at = opens(data, at, end, OPEN_LIST)
    row, goes_on = load(out.ended, ROWS), at >= 0
    while goes_on:
        goes_on, at = element(data, at, end, row == load(out.ended, ROWS))
        if goes_on:
            id_at, id_end, position, propensity, at = _item(data, at, end, words)
            if at < 0 or not row_is_added(data, id_at, id_end, position, propensity, row, bounds, out, work):
                return row, -1
            row += 1
    return row, at


@inner
def _mode(data, at, end, words):  # type: ignore[no-untyped-def]
    """A mode by its name or number, and the place behind it."""
    if at < end and load(data, at) == QUOTE:
        start, stop, at = string(data, at, end)
        number = word_at(data, start, stop, words) if at >= 0 else np.int64(NOT_A_WORD)
        return number - 1, at if number != NOT_A_WORD else -1
    return whole(data, at, end)


@inner
def behind_impression(data, at, end, now_ms, bounds, words, out, work):  # type: ignore[no-untyped-def]
    """Write the impression that starts at a place; the place behind it, -1 if it is unusual."""
    at = opens(data, at, end, OPEN)
    seen, n_context, row, first = 0, 0, load(out.ended, ROWS), True
    request_at, request_end, occurred_ms, mode = 0, 0, np.int64(0), np.int64(0)
    surface = np.int64(UNNAMED)
    while at >= 0:
        field, at = member(data, at, end, first, words.event)
        if field == NO_MEMBER or at < 0:
            break
        first = False
        if field == NOT_A_WORD:
            at = behind_scalar(data, at, end)
            continue
        if field == FORBIDDEN or not _is_new(seen, field):
            return -1
        seen |= 1 << field
        if field == _REQUEST_ID:
            request_at, request_end, at = string(data, at, end)
        elif field == _SHOWN_MS:
            occurred_ms, at = whole(data, at, end)
        elif field == _CONTEXT:
            n_context, at = _context(data, at, end, words.context, out, work, bounds)
        elif field == _ITEMS:
            row, at = _items(data, at, end, words.item, bounds, out, work)
        elif field == _MODE:
            mode, at = _mode(data, at, end, words.mode)
        elif field in (_POLICY, _GRAPH_VERSION, _USER_KEY):
            start, stop, at = string(data, at, end)
            if stop - start > bounds.id_bytes:
                return -1
        elif field == _SURFACE:
            start, stop, at = string(data, at, end)
            if stop - start > bounds.surface_bytes:
                return -1
            surface = word_at(data, start, stop, words.kind) if at >= 0 and start < stop else np.int64(UNNAMED)
        else:
            return -1
    fine = at >= 0 and slate_is_added(
        request_at, request_end, occurred_ms, mode, surface, n_context, row, now_ms, bounds, out, work
    )
    return at if fine else -1


@inner
def behind_click(data, at, end, now_ms, bounds, words, default_kind, out):  # type: ignore[no-untyped-def]
    """Write the click that starts at a place; the place behind it, -1 if it is unusual."""
    at = opens(data, at, end, OPEN)
    request_at, request_end, item_at, item_end, event_at, event_end = 0, 0, 0, 0, 0, 0
    seen, kind, reward, occurred_ms, first = 0, np.int64(default_kind), 1.0, np.int64(0), True
    while at >= 0:
        field, at = member(data, at, end, first, words.event)
        if field == NO_MEMBER or at < 0:
            break
        first = False
        if field == NOT_A_WORD:
            at = behind_scalar(data, at, end)
            continue
        if field == FORBIDDEN or not _is_new(seen, field):
            return -1
        seen |= 1 << field
        if field == _REQUEST_ID:
            request_at, request_end, at = string(data, at, end)
        elif field == _CLICKED_ITEM:
            item_at, item_end, at = string(data, at, end)
        elif field == _REWARD:
            reward, at = decimal(data, at, end)
        elif field == _KIND:
            start, stop, at = string(data, at, end)
            if at >= 0 and start < stop:
                kind = word_at(data, start, stop, words.kind)
        elif field == _CLICKED_MS:
            occurred_ms, at = whole(data, at, end)
        elif field == _EVENT_ID:
            event_at, event_end, at = string(data, at, end)
        else:
            return -1
    fine = (
        at >= 0
        and kind != NOT_A_WORD
        and click_is_added(
            request_at,
            request_end,
            item_at,
            item_end,
            event_at,
            event_end,
            kind - 1,
            reward,
            occurred_ms,
            now_ms,
            bounds,
            out,
        )
    )
    return at if fine else -1

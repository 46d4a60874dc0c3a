"""Compiled readers of events in protobuf's wire format (https://protobuf.dev/programming-guides/encoding).

Promises: an event that is read is one that protobuf would have parsed and `streams.validation` passed, with the
same values: the last of a scalar that comes twice, repeated numbers packed or not or both. Anything else, such as
an unknown field, a wrong wire type, a context in two pieces or a bad value, makes the event unusual.
"""

import numpy as np

from bandits.numba_inner import inner
from bandits.numba_memory import load, store
from streams.wire.fields import extent, is_utf8, load_float32, load_float64, varint
from streams.wire.json_values import NOT_A_WORD, word_at
from streams.wire.settle import click_is_added, row_is_added, slate_is_added
from streams.wire.sinks import ELEMENTS, ROWS, UNNAMED

# Tags: the number of a field * 8 + its wire type (0 varint, 1 eight bytes, 2 length, 5 four bytes).
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
EVENT = 1 << 3 | _LENGTH  # of both batches
_CLUSTER, _CLUSTERS, _WEIGHT, _WEIGHTS = 1 << 3, 1 << 3 | _LENGTH, 2 << 3 | _FOUR, 2 << 3 | _LENGTH
_ITEM_ID, _POSITION, _PROPENSITY = 1 << 3 | _LENGTH, 2 << 3, 3 << 3 | _EIGHT
_REQUEST_ID, _SHOWN_MS, _CONTEXT, _ITEM, _MODE = (
    1 << 3 | _LENGTH,
    2 << 3,
    3 << 3 | _LENGTH,
    4 << 3 | _LENGTH,
    6 << 3,
)
_POLICY, _GRAPH_VERSION, _USER_KEY = 5 << 3 | _LENGTH, 7 << 3 | _LENGTH, 8 << 3 | _LENGTH
_SURFACE = 9 << 3 | _LENGTH
_CLICKED_ITEM, _REWARD, _KIND, _CLICKED_MS, _EVENT_ID = (
    2 << 3 | _LENGTH,
    3 << 3 | _EIGHT,
    4 << 3 | _LENGTH,
    5 << 3,
    6 << 3 | _LENGTH,
)


@inner
def _text(data, at, end):  # type: ignore[no-untyped-def]
    """Where a string starts and where it ends; -1 as its end if it is none."""
    start, stop = extent(data, at, end)
    if stop >= 0 and not is_utf8(data, start, stop):
        return 0, -1
    return start, stop


@inner
def is_batch(data, at, end):  # type: ignore[no-untyped-def]
    """As `source_codec.is_batch`, False also where that raises: the scan of one event refuses the record then."""
    while at < end:
        if load(data, at) != EVENT:
            return False
        _, at = extent(data, at + 1, end)
        if at < 0:
            return False
    return True


@inner
def _context(data, at, end, clusters, base, weights, bounds):  # type: ignore[no-untyped-def]
    """Size of a context, whose clusters are written from `base` on; -1 if it is unusual."""
    n_ids, n_weights, most = 0, 0, bounds.clusters
    while at < end:
        tag = load(data, at)
        if tag in (_CLUSTERS, _CLUSTER):
            start, stop = (at + 1, at + 2) if tag == _CLUSTER else extent(data, at + 1, end)
            if stop < 0:
                return -1
            within = end if tag == _CLUSTER else stop
            while start < stop:
                number, start = varint(data, start, within)
                if start < 0 or number > bounds.cluster_id or n_ids == most:
                    return -1
                store(clusters, base + n_ids, np.int32(number))
                n_ids += 1
            at = start
        elif tag in (_WEIGHTS, _WEIGHT):
            start, stop = (at + 1, at + 5) if tag == _WEIGHT else extent(data, at + 1, end)
            if stop < 0 or stop > end or (stop - start) & 3 or n_weights + ((stop - start) >> 2) > most:
                return -1
            for place in range(start, stop, 4):
                store(weights, n_weights, np.float64(load_float32(data, place)))
                n_weights += 1
            at = stop
        else:
            return -1
    return n_ids if n_ids == n_weights else -1


@inner
def _item(data, at, end):  # type: ignore[no-untyped-def]
    """Where the id of a shown item starts and ends, its position and propensity; -1 as the end if it is unusual."""
    id_at, id_end, position, propensity = 0, 0, np.int64(0), 0.0
    while at < end:
        tag = load(data, at)
        if tag == _ITEM_ID:
            id_at, id_end = _text(data, at + 1, end)
            at = id_end
        elif tag == _POSITION:
            position, at = varint(data, at + 1, end)
        elif tag == _PROPENSITY and at + 9 <= end:
            propensity = load_float64(data, at + 1)
            at += 9
        else:
            return 0, -1, position, propensity
        if at < 0:
            return 0, -1, position, propensity
    return id_at, id_end, position, propensity


@inner
def impression_is_read(data, at, end, now_ms, bounds, surfaces, out, work):  # type: ignore[no-untyped-def]
    """Write the impression at:end behind what is there; False if it is unusual."""
    row, n_context = load(out.ended, ROWS), -1
    request_at, request_end, occurred_ms, mode = 0, 0, np.int64(0), np.int64(0)
    surface = np.int64(UNNAMED)
    while at < end:
        tag = load(data, at)
        if tag == _ITEM:
            start, at = extent(data, at + 1, end)
            if at < 0:
                return False
            id_at, id_end, position, propensity = _item(data, start, at)
            if not row_is_added(data, id_at, id_end, position, propensity, row, bounds, out, work):
                return False
            row += 1
        elif tag == _CONTEXT:
            start, at = extent(data, at + 1, end)
            if at < 0 or n_context >= 0:
                return False
            base = load(out.ended, ELEMENTS)
            n_context = _context(data, start, at, out.cluster, base, work.weights, bounds)
            if n_context < 1:
                return False
        elif tag == _REQUEST_ID:
            request_at, request_end = _text(data, at + 1, end)
            at = request_end
        elif tag == _SHOWN_MS:
            occurred_ms, at = varint(data, at + 1, end)
        elif tag == _MODE:
            mode, at = varint(data, at + 1, end)
        elif tag in (_POLICY, _GRAPH_VERSION, _USER_KEY):
            start, at = _text(data, at + 1, end)
            if at - start > bounds.id_bytes:
                return False
        elif tag == _SURFACE:
            start, at = _text(data, at + 1, end)
            if at - start > bounds.surface_bytes:
                return False
            surface = word_at(data, start, at, surfaces) if start < at else np.int64(UNNAMED)
        else:
            return False
        if at < 0:
            return False
    return slate_is_added(
        request_at, request_end, occurred_ms, mode, surface, n_context, row, now_ms, bounds, out, work
    )


@inner
def click_is_read(data, at, end, now_ms, bounds, kinds, default_kind, out):  # type: ignore[no-untyped-def]
    """Write the click at:end behind what is there; False if it is unusual."""
    request_at, request_end, item_at, item_end, event_at, event_end = 0, 0, 0, 0, 0, 0
    kind_at, kind_end, reward, occurred_ms = 0, 0, 1.0, np.int64(0)
    while at < end:
        tag = load(data, at)
        if tag == _REQUEST_ID:
            request_at, request_end = _text(data, at + 1, end)
            at = request_end
        elif tag == _CLICKED_ITEM:
            item_at, item_end = _text(data, at + 1, end)
            at = item_end
        elif tag == _REWARD and at + 9 <= end:
            reward = load_float64(data, at + 1)
            at += 9
        elif tag == _KIND:
            kind_at, kind_end = _text(data, at + 1, end)
            at = kind_end
        elif tag == _CLICKED_MS:
            occurred_ms, at = varint(data, at + 1, end)
        elif tag == _EVENT_ID:
            event_at, event_end = _text(data, at + 1, end)
            at = event_end
        else:
            return False
        if at < 0:
            return False
    kind = word_at(data, kind_at, kind_end, kinds) if kind_at < kind_end else default_kind
    if kind == NOT_A_WORD:
        return False
    return click_is_added(
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

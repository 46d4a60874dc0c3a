"""Compiled scan of protobuf records: the wire format of impressions and clicks into columns, in one pass.

Promises: a record is taken whole or not at all; one that is taken is one that protobuf would have parsed and
`streams.validation` passed, with the same values: the last of a scalar that comes twice, repeated numbers packed or
not or both. One with anything else, such as an unknown field, a wrong wire type, a context in two pieces or a bad
value, is handed over, and nothing of it is left. Encoding: https://protobuf.dev/programming-guides/encoding
"""

import numpy as np
from numba import njit

from bandits.numba_memory import load, pointer, store
from streams.wire.fields import (
    extent,
    is_utf8,
    load_float32,
    load_float64,
    number_of,
    same_bytes,
    varint,
    with_room,
)
from streams.wire.settle import context_is_settled, time_is_fine
from streams.wire.sinks import (
    CONTEXT_END,
    DISTINCT,
    DONE,
    ELEMENTS,
    EVENT_AT,
    EVENT_SIZE,
    HAND_OVER,
    INDEX,
    ITEM_AT,
    ITEM_SIZE,
    ITEMS_END,
    KIND,
    OCCURRED,
    RECORD,
    REQUEST_AT,
    REQUEST_SIZE,
    ROWS,
    SLATES,
    TRY,
)

_FEWEST_BYTES_OF_ITEM = 5
_FIRST_TABLE = 1024
# Tags: the number of a field * 8 + its wire type (0 varint, 1 eight bytes, 2 length, 5 four bytes).
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_EVENT = 1 << 3 | _LENGTH  # of both batches
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
_CLICKED_ITEM, _REWARD, _KIND, _CLICKED_MS, _EVENT_ID = (
    2 << 3 | _LENGTH,
    3 << 3 | _EIGHT,
    4 << 3 | _LENGTH,
    5 << 3,
    6 << 3 | _LENGTH,
)


@njit
def _text(data, at, end):  # type: ignore[no-untyped-def]
    """Where a string starts and where it ends; -1 as its end if it is none."""
    start, stop = extent(data, at, end)
    if stop >= 0 and not is_utf8(data, start, stop):
        return 0, -1
    return start, stop


@njit
def _is_batch(data, at, end):  # type: ignore[no-untyped-def]
    """As `source_codec.is_batch`, False also where that raises: the scan of one event refuses the record then."""
    while at < end:
        if load(data, at) != _EVENT:
            return False
        _, at = extent(data, at + 1, end)
        if at < 0:
            return False
    return True


@njit
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


@njit
def _item(data, at, end, bounds):  # type: ignore[no-untyped-def]
    """Where the id of a shown item starts and ends, and its position; -1 as the end if the item is unusual."""
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
            return 0, -1, position
        if at < 0:
            return 0, -1, position
    fine = 1 <= id_end - id_at <= bounds.id_bytes and position <= bounds.position and 0.0 <= propensity <= 1.0
    return id_at, id_end if fine else -1, position


@njit
def _impression(data, at, end, now_ms, bounds, out, table, last, weights, serial):  # type: ignore[no-untyped-def]
    """Write one impression behind what is there; False if it is unusual.

    The table is that of `number_of`; `last` has the serial of the impression that showed each distinct item last,
    and `serial` is this one's.
    """
    clusters, xs, items, positions = pointer(out.cluster), pointer(out.x), pointer(out.item), pointer(out.position)
    slots, seen, buffer = pointer(table), pointer(last), pointer(weights)
    starts, sizes, hashes = pointer(out.item_at), pointer(out.item_size), pointer(out.item_hash)
    slate, row, element, distinct = out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS], out.ended[DISTINCT]
    first_row, n_context = row, -1
    request_at, request_end, occurred_ms, mode = 0, 0, np.int64(0), np.int64(0)
    while at < end:
        tag = load(data, at)
        if tag == _ITEM:
            start, at = extent(data, at + 1, end)
            if at < 0:
                return False
            id_at, id_end, position = _item(data, start, at, bounds)
            if id_end < 0 or row - first_row == bounds.items:
                return False
            number = number_of(data, id_at, id_end, slots, len(table) - 1, distinct, starts, sizes, hashes)
            if number < 0 or (number < distinct and load(seen, number) == serial):
                return False
            distinct += number == distinct
            out.ended[DISTINCT] = distinct
            store(seen, number, serial)
            store(items, row, np.int32(number))
            store(positions, row, np.int32(position))
            row += 1
        elif tag == _CONTEXT:
            start, at = extent(data, at + 1, end)
            if at < 0 or n_context >= 0:
                return False
            n_context = _context(data, start, at, clusters, element, buffer, bounds)
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
        else:
            return False
        if at < 0:
            return False
    if not (
        row > first_row
        and n_context > 0
        and 1 <= request_end - request_at <= bounds.id_bytes
        and mode <= bounds.mode
        and time_is_fine(occurred_ms, now_ms, bounds)
        and context_is_settled(clusters, xs, buffer, element, n_context)
    ):
        return False
    columns = out.slate[slate]
    columns[REQUEST_AT], columns[REQUEST_SIZE] = request_at, request_end - request_at
    columns[OCCURRED], columns[ITEMS_END], columns[CONTEXT_END] = occurred_ms, row, element + n_context
    out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS] = slate + 1, row, element + n_context
    return True


@njit(cache=True, nogil=True)
def scan_impressions(data, ends, now_ms, bounds, out, outcome):  # type: ignore[no-untyped-def]
    """Impressions of all records that are to be tried.

    Args:
        data: uint8, the records' bytes one after the other.
        ends: int64 of shape (n_records,), where each ends.
        now_ms: int64 of shape (n_records,), when the log took each.
        bounds: a `Bounds`.
        out: a fresh `ShownSink` with room for `data`.
        outcome: uint8 of shape (n_records,), TRY or what is not to be tried; TRY becomes DONE or HAND_OVER.
    """
    bytes_ = pointer(data)
    table = np.zeros(_FIRST_TABLE, np.int32)
    last, weights = np.empty(len(out.item_at), np.int64), np.empty(bounds.clusters)
    serial = np.int64(0)
    for record in range(len(ends)):
        if outcome[record] != TRY:
            continue
        at, end = ends[record - 1] if record else 0, ends[record]
        slates, rows, elements = out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS]
        batch = _is_batch(bytes_, at, end)
        index, fine = 0, at < end
        while fine and at < end and index < bounds.events:
            start, stop = extent(bytes_, at + 1, end) if batch else (at, end)
            table = with_room(table, out.item_hash, out.ended[DISTINCT], (stop - start) // _FEWEST_BYTES_OF_ITEM)
            serial += 1
            slate = out.ended[SLATES]
            fine = _impression(bytes_, start, stop, now_ms[record], bounds, out, table, last, weights, serial)
            out.slate[slate, RECORD], out.slate[slate, INDEX] = record, index
            index, at = index + 1, stop
        if fine and at == end:
            outcome[record] = DONE
        else:
            outcome[record] = HAND_OVER
            out.ended[SLATES], out.ended[ROWS], out.ended[ELEMENTS] = slates, rows, elements


@njit
def _kind(data, at, end, kinds):  # type: ignore[no-untyped-def]
    """Number of a kind, -1 if it is not declared."""
    if at == end:
        return kinds.default
    start = 0
    for number in range(len(kinds.ends)):
        stop = kinds.ends[number]
        if stop - start == end - at and same_bytes(pointer(kinds.text), start, data, at, end - at):
            return number
        start = stop
    return -1


@njit
def _click(data, at, end, now_ms, bounds, kinds, out):  # type: ignore[no-untyped-def]
    """Write one click behind what is there; False if it is unusual."""
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
    kind = _kind(data, kind_at, kind_end, kinds)
    if not (
        kind >= 0
        and 1 <= request_end - request_at <= bounds.id_bytes
        and 1 <= item_end - item_at <= bounds.id_bytes
        and event_end - event_at <= bounds.id_bytes
        and 0.0 <= reward < np.inf
        and time_is_fine(occurred_ms, now_ms, bounds)
    ):
        return False
    number = out.ended[0]
    columns = out.click[number]
    columns[REQUEST_AT], columns[REQUEST_SIZE] = request_at, request_end - request_at
    columns[ITEM_AT], columns[ITEM_SIZE] = item_at, item_end - item_at
    columns[EVENT_AT], columns[EVENT_SIZE] = event_at, event_end - event_at
    columns[OCCURRED], columns[KIND] = occurred_ms, kind
    out.reward[number] = reward
    out.ended[0] = number + 1
    return True


@njit(cache=True, nogil=True)
def scan_clicks(data, ends, now_ms, bounds, kinds, out, outcome):  # type: ignore[no-untyped-def]
    """Clicks of all records that are to be tried: as `scan_impressions`, with `Kinds` and into a `ClickedSink`."""
    bytes_ = pointer(data)
    for record in range(len(ends)):
        if outcome[record] != TRY:
            continue
        at, end = ends[record - 1] if record else 0, ends[record]
        clicks = out.ended[0]
        batch = _is_batch(bytes_, at, end)
        index, fine = 0, at < end
        while fine and at < end and index < bounds.events:
            start, stop = extent(bytes_, at + 1, end) if batch else (at, end)
            number = out.ended[0]
            fine = _click(bytes_, start, stop, now_ms[record], bounds, kinds, out)
            out.click[number, RECORD], out.click[number, INDEX] = record, index
            index, at = index + 1, stop
        if fine and at == end:
            outcome[record] = DONE
        else:
            outcome[record] = HAND_OVER
            out.ended[0] = clicks

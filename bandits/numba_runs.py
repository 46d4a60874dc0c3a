"""Compiled search in the joiner's tables: runs of rows under one request, and rows that are apart from theirs.

Promises: as in `bandits.numba_rows`, whose tables these are; its invariants are said there.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer, prefetch, store
from bandits.numba_texts import copy_text, mixed, same_text, text_hash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_KEPT_BITS = np.uint64(0xFFFFFFFF)  # of the hash of an item, while its row is alive
AHEAD = 16  # rows from asking for a slot to reading it
LONGEST = 64  # rows of a run that are looked through
_MOST_RUNS = 4  # of a request that are looked through
RUN, ROW, SPLIT = 0, 1, 2  # what is entered: a run, a row, a run of a batch whose rows are apart by now
# Of `AliveRows.counts`
ENTRIES, APART, RUNS, REQUEST_BYTES, ITEM_BYTES = range(5)


class Places(NamedTuple):
    """A `bandits.texts.PairColumns` as pointers."""

    request: Any
    request_at: Any
    request_size: Any
    item: Any
    item_at: Any
    item_size: Any


class Known(NamedTuple):
    """Alive rows and their table (`bandits.row_index.AliveRows`) as pointers, and where each column begins."""

    slots: Any
    last: Any
    counts: Any
    run_first: Any
    start: Any
    request: Any
    request_at: Any
    request_size: Any
    request_first: Any
    run_hash: Any
    run_apart: Any
    first: Any
    end: Any
    item: Any
    item_end: Any
    item_hash: Any
    item_first: Any


class Batch(NamedTuple):
    """A `bandits.row_index.BatchTable` as pointers, and the rows of the batch."""

    rows: Any
    slots: Any
    last: Any
    request_hash: Any
    item_hash: Any
    run: Any
    rank: Any
    before: Any
    fresh: Any


@inner
def row_places(pairs):  # type: ignore[no-untyped-def]
    """Pointers of `PairColumns`."""
    return Places(
        pointer(pairs.request),
        pointer(pairs.request_at),
        pointer(pairs.request_size),
        pointer(pairs.item),
        pointer(pairs.item_at),
        pointer(pairs.item_size),
    )


@inner
def known_rows(alive):  # type: ignore[no-untyped-def]
    """Pointers of an `AliveRows`."""
    return Known(
        pointer(alive.slots),
        np.int64(len(alive.slots) - 1),
        pointer(alive.counts),
        alive.run_first,
        pointer(alive.start),
        pointer(alive.request),
        pointer(alive.request_at),
        pointer(alive.request_size),
        alive.request_first,
        pointer(alive.run_hash),
        pointer(alive.run_apart.view(np.uint8)),
        alive.first,
        alive.first + len(alive.item_end),
        pointer(alive.item),
        pointer(alive.item_end),
        pointer(alive.item_hash),
        alive.item_first,
    )


@inner
def batch_rows(pairs, table):  # type: ignore[no-untyped-def]
    """Pointers of a `BatchTable` and of its rows."""
    return Batch(
        row_places(pairs),
        pointer(table.slots),
        np.int64(len(table.slots) - 1),
        pointer(table.request_hash),
        pointer(table.item_hash),
        pointer(table.run),
        pointer(table.rank),
        pointer(table.before),
        pointer(table.fresh.view(np.uint8)),
    )


@njit(inline="always")
def pair_hash(request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Hash under which a row is entered by itself."""
    return mixed(request_hash * _GOLDEN + (item_hash & _KEPT_BITS))


@njit(inline="always")
def mark_of(number, kind):  # type: ignore[no-untyped-def]
    """What says which run, or which row, is entered."""
    return np.uint64((number + 1) << 2 | kind)


@njit(inline="always")
def goes_on(pairs, row):  # type: ignore[no-untyped-def]
    """True if a row is of the run of the row before."""
    return (
        row > 0
        and load(pairs.request_at, row) == load(pairs.request_at, row - 1)
        and load(pairs.request_size, row) == load(pairs.request_size, row - 1)
    )


@inner
def same_request(one, row, known, run):  # type: ignore[no-untyped-def]
    """True if the request of a row is that of a run, by its place."""
    size = load(one.request_size, row)
    return size == load(known.request_size, run) and same_text(
        one.request,
        load(one.request_at, row),
        known.request,
        load(known.request_at, run) - known.request_first,
        size,
    )


@inner
def same_item(one, row, known, place):  # type: ignore[no-untyped-def]
    """True if the item of a row is that of an alive row, by its place."""
    size, start = load(one.item_size, row), load(known.item_end, place - 1) if place > 0 else known.item_first
    return size == load(known.item_end, place) - start and same_text(
        one.item, load(one.item_at, row), known.item, start - known.item_first, size
    )


@inner
def run_end(known, run):  # type: ignore[no-untyped-def]
    """Number behind the last row of a run."""
    return load(known.start, run + 1) if run + 1 < load(known.counts, RUNS) else known.end


@inner
def run_of(known, number):  # type: ignore[no-untyped-def]
    """Place of the run of an alive row."""
    low, high = np.int64(0), load(known.counts, RUNS)
    while high - low > 1:
        middle = (low + high) >> 1
        if load(known.start, middle) <= number:
            low = middle
        else:
            high = middle
    return low


@inner
def apart_slot(known, pairs, row, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """The slot of a pair whose row is apart, or the empty one where it would be."""
    wanted = pair_hash(request_hash, item_hash)
    slot = np.int64(wanted & np.uint64(known.last))
    while load(known.slots, 2 * slot + 1) > 0:
        mark = np.int64(load(known.slots, 2 * slot + 1))
        if mark & 3 == ROW and load(known.slots, 2 * slot) == wanted:
            number = (mark >> 2) - 1
            if same_item(pairs, row, known, number - known.first) and same_request(
                pairs, row, known, run_of(known, number)
            ):
                break
        slot = (slot + 1) & known.last
    return slot


@inner
def newest_apart(known, pairs, row, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Number of the row of a pair that is entered by itself, -1 where there is none."""
    slot = apart_slot(known, pairs, row, request_hash, item_hash)
    return np.int64(load(known.slots, 2 * slot + 1) >> np.uint64(2)) - 1


@inner
def newest(known, pairs, row, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Number of the newest alive row of a pair, -1 where there is none."""
    newest, slot = -1, np.int64(request_hash & np.uint64(known.last))
    while load(known.slots, 2 * slot + 1) > 0:
        mark = np.int64(load(known.slots, 2 * slot + 1))
        if mark & 3 == RUN and load(known.slots, 2 * slot) == request_hash:
            run = (mark >> 2) - 1 - known.run_first
            if same_request(pairs, row, known, run):
                for number in range(max(load(known.start, run), known.first), run_end(known, run)):
                    place = number - known.first
                    if load(known.item_hash, place) == item_hash & _KEPT_BITS and same_item(
                        pairs, row, known, place
                    ):
                        newest = max(newest, number)
        slot = (slot + 1) & known.last
    if load(known.counts, APART) > 0:
        newest = max(newest, newest_apart(known, pairs, row, request_hash, item_hash))
    return newest


@inner
def equal_requests(one, row, other, other_row):  # type: ignore[no-untyped-def]
    """True if two rows have one request."""
    size = load(one.request_size, row)
    return size == load(other.request_size, other_row) and same_text(
        one.request, load(one.request_at, row), other.request, load(other.request_at, other_row), size
    )


@inner
def equal_items(one, row, other, other_row):  # type: ignore[no-untyped-def]
    """True if two rows have one item."""
    size = load(one.item_size, row)
    return size == load(other.item_size, other_row) and same_text(
        one.item, load(one.item_at, row), other.item, load(other.item_at, other_row), size
    )


@inner
def run_slot(batch, pairs, row, request_hash):  # type: ignore[no-untyped-def]
    """The slot of a request in the table of a batch, or the empty one where it would be."""
    slot = np.int64(request_hash & np.uint64(batch.last))
    while load(batch.slots, slot) > 0:
        mark = np.int64(load(batch.slots, slot))
        run = (mark >> 2) - 1
        if (
            mark & 3 != ROW
            and load(batch.request_hash, run) == request_hash
            and equal_requests(pairs, row, batch.rows, run)
        ):
            break
        slot = (slot + 1) & batch.last
    return slot


@inner
def row_slot(batch, pairs, row, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """The slot of a pair whose rows are apart in the table of a batch, or the empty one where it would be."""
    slot = np.int64(pair_hash(request_hash, item_hash) & np.uint64(batch.last))
    while load(batch.slots, slot) > 0:
        mark = np.int64(load(batch.slots, slot))
        other = (mark >> 2) - 1
        if (
            mark & 3 == ROW
            and load(batch.item_hash, other) == item_hash
            and load(batch.request_hash, other) == request_hash
            and equal_items(pairs, row, batch.rows, other)
            and equal_requests(pairs, row, batch.rows, other)
        ):
            break
        slot = (slot + 1) & batch.last
    return slot


@inner
def newest_in_batch(batch, slot, end, pairs, row, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Place of the newest fresh row of a pair among the first `end` rows, -1 where there is none.

    The slot of its request is not empty.
    """
    mark = np.int64(load(batch.slots, slot))
    if mark & 3 == SPLIT:
        return np.int64(load(batch.slots, row_slot(batch, pairs, row, request_hash, item_hash)) >> 2) - 1
    run, newest = (mark >> 2) - 1, np.int64(-1)
    at = run
    while at < end and load(batch.run, at) == run:
        if (
            load(batch.fresh, at) > 0
            and load(batch.item_hash, at) == item_hash
            and equal_items(pairs, row, batch.rows, at)
        ):
            newest = at
        at += 1
    return newest


@inner
def split(batch, slot, end):  # type: ignore[no-untyped-def]
    """Enter the rows of a run one by one; those of the first `end` rows."""
    run = np.int64(load(batch.slots, slot) >> 2) - 1
    store(batch.slots, slot, np.int32(mark_of(run, SPLIT)))
    at = run
    while at < end and load(batch.run, at) == run:
        if load(batch.fresh, at) > 0:
            enter_row(batch, at)
        at += 1


@inner
def enter_row(batch, row):  # type: ignore[no-untyped-def]
    """Enter a row of a batch by itself; it takes the place of an older one of its pair."""
    place = row_slot(batch, batch.rows, row, load(batch.request_hash, row), load(batch.item_hash, row))
    store(batch.slots, place, np.int32(mark_of(row, ROW)))


@inner
def ask_for_slot(slots, last, hashes, row, end):  # type: ignore[no-untyped-def]
    """Ask for the slot of a later row, if there is one."""
    if row + AHEAD < end:
        prefetch(slots, 2 * np.int64(load(hashes, row + AHEAD) & np.uint64(last)))


@inner
def hash_rows(pairs, seed, n, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Hashes of the requests and items of rows."""
    wanted = np.uint64(0)
    for row in range(n):
        if not goes_on(pairs, row):
            wanted = text_hash(pairs.request, load(pairs.request_at, row), load(pairs.request_size, row), seed)
        store(request_hash, row, wanted)
        at, size = load(pairs.item_at, row), load(pairs.item_size, row)
        store(item_hash, row, text_hash(pairs.item, at, size, seed))


@inner
def take_out(slots, last, wanted, mark):  # type: ignore[no-untyped-def]
    """Take an entry out if it is there; whether it was."""
    slot = np.int64(wanted & np.uint64(last))
    while load(slots, 2 * slot + 1) > 0 and load(slots, 2 * slot + 1) != mark:
        slot = (slot + 1) & last
    if load(slots, 2 * slot + 1) == 0:
        return 0  # the pair was used again
    # What lies behind moves up, so that no search stops early (Knuth, volume 3, algorithm 6.4R).
    hole, at = slot, (slot + 1) & last
    while load(slots, 2 * at + 1) > 0:
        home = np.int64(load(slots, 2 * at) & np.uint64(last))
        if ((at - home) & last) >= ((at - hole) & last):
            store(slots, 2 * hole, load(slots, 2 * at))
            store(slots, 2 * hole + 1, load(slots, 2 * at + 1))
            hole = at
        at = (at + 1) & last
    store(slots, 2 * hole + 1, np.uint64(0))
    return 1


@inner
def may_have(known, request_hash):  # type: ignore[no-untyped-def]
    """True unless no alive run has this hash of its request."""
    slot = np.int64(request_hash & np.uint64(known.last))
    while load(known.slots, 2 * slot + 1) > 0:
        if load(known.slots, 2 * slot) == request_hash:
            return True
        slot = (slot + 1) & known.last
    return False


@njit(inline="always")
def has_hash(hashes, start, end, wanted):  # type: ignore[no-untyped-def]
    """True if start:end of some hashes has one."""
    found = False
    for at in range(start, end):
        found |= load(hashes, at) == wanted
    return found


@inner
def copy_request(known, run, pairs, row):  # type: ignore[no-untyped-def]
    """Write the request of a run behind those that are there."""
    to, size = load(known.counts, REQUEST_BYTES), load(pairs.request_size, row)
    store(known.request_at, run, to)
    store(known.request_size, run, size)
    copy_text(pairs.request, load(pairs.request_at, row), size, known.request, to - known.request_first)
    store(known.counts, REQUEST_BYTES, to + size)


@inner
def enter_apart(known, pairs, row, number, request_hash, item_hash):  # type: ignore[no-untyped-def]
    """Enter a row by itself; it takes the place of an older one of its pair."""
    slot = apart_slot(known, pairs, row, request_hash, item_hash)
    if load(known.slots, 2 * slot + 1) == 0:
        store(known.counts, ENTRIES, load(known.counts, ENTRIES) + 1)
        store(known.counts, APART, load(known.counts, APART) + 1)
    store(known.slots, 2 * slot, pair_hash(request_hash, item_hash))
    store(known.slots, 2 * slot + 1, mark_of(number, ROW))


@inner
def room_for_run(known, length, request_hash):  # type: ignore[no-untyped-def]
    """The empty slot where a run would be entered; -1 if its rows are to be apart."""
    slot, others = np.int64(request_hash & np.uint64(known.last)), 0
    while load(known.slots, 2 * slot + 1) > 0:
        # An equal hash is enough: this is about how much would be looked through.
        others += (load(known.slots, 2 * slot + 1) & np.uint64(3) == RUN) & (
            load(known.slots, 2 * slot) == request_hash
        )
        slot = (slot + 1) & known.last
    return slot if length <= LONGEST and others < _MOST_RUNS else np.int64(-1)

"""Compiled search of rows by request and item, for the joiner.

Promises: pairs are told apart by their bytes, hashes only say where to look. Nothing is checked here: tables have a
power of two of slots, at most half of which are taken.

Rows that follow each other under one request are a run: the slate of one event. A table of alive rows has in each
slot a hash and a mark, or 0; collisions go to the next slot. A run is entered once, by the hash of its request, and
its few rows are looked through. Where that could take long, because a run is long or its request has several, its
rows are entered one by one, by the hashes of their pairs: they are apart. So is a table of a batch, with marks
alone; there rows of a request are apart as soon as it has a second run. A run costs the cache miss of its slot, so
slots are asked for some rows ahead.
"""

from typing import Any

import numpy as np
from numba import njit

from bandits import numba_memory, numba_runs, numba_texts
from bandits.numba_cache import fingerprint
from bandits.numba_memory import load, pointer, prefetch, store
from bandits.numba_runs import (
    AHEAD,
    APART,
    ENTRIES,
    ITEM_BYTES,
    LONGEST,
    ROW,
    RUN,
    RUNS,
    ask_for_slot,
    batch_rows,
    copy_request,
    enter_apart,
    enter_row,
    goes_on,
    has_hash,
    hash_rows,
    known_rows,
    mark_of,
    may_have,
    newest,
    newest_in_batch,
    pair_hash,
    room_for_run,
    row_places,
    run_end,
    run_slot,
    split,
    take_out,
)
from bandits.numba_texts import copy_text


def _entries(sources: int) -> tuple[Any, ...]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def hash_pairs(pairs, seed, request_hash, item_hash):  # type: ignore[no-untyped-def]
        """Hashes of the requests and items of pairs, uint64 of shape (n,) each."""
        if sources >= 0:  # the number becomes part of the key in Numba's cache
            hash_rows(row_places(pairs), seed, len(pairs.item_at), pointer(request_hash), pointer(item_hash))

    @njit(cache=True, nogil=True)
    def mark_fresh(pairs, on_time, ingested, alive, alive_ms, seed, retention_ms, table):  # type: ignore[no-untyped-def]
        """Find the rows that are in no alive row, nor earlier in the batch, within the retention.

        Args:
            pairs: `PairColumns` of the batch.
            on_time: bool of each row; the others are passed over.
            ingested: int64 of each row, never decreasing.
            alive: an `AliveRows`.
            alive_ms: int64, ingestion time of each alive row.
            seed: uint64, of the hashes.
            retention_ms: after which a row is not seen.
            table: a `BatchTable`, filled.
        """
        known, batch, n = known_rows(alive), batch_rows(pairs, table), len(on_time)
        hash_rows(batch.rows, seed, n if sources >= 0 else 0, batch.request_hash, batch.item_hash)
        run, slot, seen, alone, rank = 0, -1, False, True, 0
        for row in range(n):
            if not goes_on(batch.rows, row):
                ask_for_slot(known.slots, known.last, batch.request_hash, row, n)
                run, slot = row, -1
                seen = load(known.counts, APART) > 0 or may_have(known, load(batch.request_hash, row))
            store(batch.run, row, np.int32(run))
            store(batch.rank, row, np.int32(rank))
            store(batch.before, row, np.int64(-1))
            store(batch.fresh, row, np.uint8(0))
            if not on_time[row]:
                continue
            request_hash, item_hash = load(batch.request_hash, row), load(batch.item_hash, row)
            if seen:
                number = newest(known, batch.rows, row, request_hash, item_hash)
                if number >= 0 and ingested[row] - alive_ms[number - alive.first] <= retention_ms:
                    continue
            if slot < 0:
                slot = run_slot(batch, batch.rows, row, request_hash)
                alone = load(batch.slots, slot) == 0
                if alone:
                    store(batch.slots, slot, np.int32(mark_of(run, RUN)))
            if np.int64(load(batch.slots, slot)) & 3 == RUN and (not alone or row - run >= LONGEST):
                split(batch, slot, row)
                alone = False
            other = -1
            if not alone or has_hash(batch.item_hash, run, row, item_hash):
                other = newest_in_batch(batch, slot, row, batch.rows, row, request_hash, item_hash)
                if other >= 0 and ingested[row] - ingested[other] <= retention_ms:
                    continue
            store(batch.before, row, other)
            store(batch.fresh, row, np.uint8(1))
            rank += 1
            if not alone:
                enter_row(batch, row)

    @njit(cache=True, nogil=True)
    def find_rows(  # type: ignore[no-untyped-def]
        pairs, ingested, alive, alive_ms, seed, shown, shown_ms, table, end, retention_ms, wait_ms, found
    ):
        """Number of the first row that each click can see, -1 where there is none.

        Args:
            pairs: `PairColumns` of the clicks.
            ingested: int64 of each click.
            alive: as in `mark_fresh`.
            alive_ms: as in `mark_fresh`.
            seed: as in `mark_fresh`.
            shown: `PairColumns` of the batch's rows.
            shown_ms: int64, ingestion time of these.
            table: their `BatchTable`.
            end: number of the first fresh row.
            retention_ms: a click that comes later does not see the row.
            wait_ms: a click that came so much earlier does not either.
            found: int64 of each click, filled.
        """
        clicks, known, batch, n = row_places(pairs), known_rows(alive), batch_rows(shown, table), len(ingested)
        requests, items = np.empty(n, np.uint64), np.empty(n, np.uint64)
        hash_rows(clicks, seed, n if sources >= 0 else 0, pointer(requests), pointer(items))
        for click in range(n):
            ask_for_slot(known.slots, known.last, pointer(requests), click, n)
            request_hash, item_hash = requests[click], items[click]
            found[click] = -1
            number = newest(known, clicks, click, request_hash, item_hash)
            if number >= 0 and -wait_ms <= ingested[click] - alive_ms[number - alive.first] <= retention_ms:
                found[click] = number
                continue
            slot = run_slot(batch, clicks, click, request_hash)
            if load(batch.slots, slot) == 0:
                continue
            row = newest_in_batch(batch, slot, len(shown_ms), clicks, click, request_hash, item_hash)
            while row >= 0:
                if -wait_ms <= ingested[click] - shown_ms[row] <= retention_ms:
                    found[click] = end + load(batch.rank, row)
                row = table.before[row]

    @njit(cache=True, nogil=True)
    def add_rows(pairs, request_hash, item_hash, start, alive, place):  # type: ignore[no-untyped-def]
        """Enter rows from `place` on, run by run, as long as the table has room; where that ended.

        Args:
            pairs: `PairColumns` of the rows.
            request_hash: uint64 of each.
            item_hash: uint64 of each.
            start: number of the first of them.
            alive: an `AliveRows` whose columns have room for them at their ends; these are filled and counted.
            place: 0, or where it ended before the table was made larger.
        """
        known, new, n = known_rows(alive), row_places(pairs), len(request_hash)
        requests, items, row = pointer(request_hash), pointer(item_hash), place if sources >= 0 else n
        while row < n:
            end = row + 1
            while end < n and goes_on(new, end):
                end += 1
            ask_for_slot(known.slots, known.last, requests, row, n)
            entries, run, request = load(known.counts, ENTRIES), load(known.counts, RUNS), load(requests, row)
            if 2 * (entries + end - row) > known.last + 1:
                break
            slot = room_for_run(known, end - row, request)
            store(known.start, run, start + row)
            store(known.run_hash, run, request)
            store(known.run_apart, run, np.uint8(slot < 0))
            copy_request(known, run, new, row)
            store(known.counts, RUNS, run + 1)
            if slot >= 0:
                store(known.slots, 2 * slot, request)
                store(known.slots, 2 * slot + 1, mark_of(known.run_first + run, RUN))
                store(known.counts, ENTRIES, entries + 1)
            to = load(known.counts, ITEM_BYTES)
            for at in range(row, end):
                own, size = start + at - known.first, load(new.item_size, at)
                copy_text(new.item, load(new.item_at, at), size, known.item, to - known.item_first)
                to += size
                store(known.item_end, own, to)
                store(known.item_hash, own, np.uint32(load(items, at)))
                if slot < 0:
                    enter_apart(known, new, at, start + at, request, load(items, at))
            store(known.counts, ITEM_BYTES, to)
            row = end
        return row

    @njit(cache=True, nogil=True)
    def drop_rows(alive, end):  # type: ignore[no-untyped-def]
        """Take rows below number `end` out of the table; how many runs have no row any more."""
        known, counts, run = known_rows(alive), alive.counts, np.int64(0)
        while run < len(alive.start) and alive.start[run] < end and sources >= 0:
            if run + AHEAD < len(alive.start):
                prefetch(known.slots, 2 * np.int64(alive.run_hash[run + AHEAD] & np.uint64(known.last)))
            stop = run_end(known, run)
            if load(known.run_apart, run) > 0:
                for number in range(max(alive.start[run], alive.first), min(stop, end)):
                    wanted = pair_hash(alive.run_hash[run], np.uint64(alive.item_hash[number - alive.first]))
                    gone = take_out(known.slots, known.last, wanted, mark_of(number, ROW))
                    counts[ENTRIES] -= gone
                    counts[APART] -= gone
            if stop > end:
                break
            if load(known.run_apart, run) == 0:
                mark = mark_of(alive.run_first + run, RUN)
                counts[ENTRIES] -= take_out(known.slots, known.last, alive.run_hash[run], mark)
            run += 1
        counts[RUNS] -= run
        return run

    @njit(cache=True, nogil=True)
    def move_rows(slots, larger):  # type: ignore[no-untyped-def]
        """Enter all of a table into another, empty one."""
        last = np.int64(len(larger) - 1)
        for old in range(len(slots) if sources >= 0 else 0):
            if slots[old, 1] > 0:
                slot = np.int64(slots[old, 0] & np.uint64(last))
                while larger[slot, 1] > 0:
                    slot = (slot + 1) & last
                larger[slot, 0], larger[slot, 1] = slots[old, 0], slots[old, 1]

    return hash_pairs, mark_fresh, find_rows, add_rows, drop_rows, move_rows


hash_pairs, mark_fresh, find_rows, add_rows, drop_rows, move_rows = _entries(
    fingerprint(numba_memory, numba_runs, numba_texts)
)

"""Compiled search of rows by request and item, for the joiner.

Promises: pairs are told apart by their bytes, hashes only say where to look. Nothing is checked here: tables have a
power of two of slots, at most half of which are taken.

A table of alive rows has in each slot the hash of a row and its number + 1, or 0; collisions go to the next slot. A
table of a batch has in each slot the place of a row in the batch + 1, or 0. A row costs the cache miss of its
slot, so slots are asked for some rows ahead.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bandits import numba_memory, numba_texts
from bandits.numba_cache import fingerprint
from bandits.numba_memory import load, pointer, prefetch
from bandits.numba_texts import mixed, same_text, text_hash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_AHEAD = 16  # rows from asking for a slot to reading it
_ONE = np.uint64(1)


class Places(NamedTuple):
    """A `bandits.texts.PairColumns` as pointers, and where its buffers begin."""

    request: Any
    request_at: Any
    request_size: Any
    request_first: Any
    item: Any
    item_at: Any
    item_size: Any
    item_first: Any


@njit
def _places(pairs, request_first, item_first):  # type: ignore[no-untyped-def]
    return Places(
        pointer(pairs.request),
        pointer(pairs.request_at),
        pointer(pairs.request_size),
        request_first,
        pointer(pairs.item),
        pointer(pairs.item_at),
        pointer(pairs.item_size),
        item_first,
    )


@njit
def _pair_hash(pairs, row, request_hash, seed):  # type: ignore[no-untyped-def]
    at = load(pairs.item_at, row) - pairs.item_first
    return mixed(request_hash * _GOLDEN + text_hash(pairs.item, at, load(pairs.item_size, row), seed))


@njit
def _request_hash(pairs, row, before, seed):  # type: ignore[no-untyped-def]
    """Hash of a request; `before` is that of the row before, which is often of the same slate."""
    at, size = load(pairs.request_at, row), load(pairs.request_size, row)
    if row > 0 and at == load(pairs.request_at, row - 1) and size == load(pairs.request_size, row - 1):
        return before
    return text_hash(pairs.request, at - pairs.request_first, size, seed)


@njit
def _same_pair(one, row, other, other_row):  # type: ignore[no-untyped-def]
    size, item_size = load(one.request_size, row), load(one.item_size, row)
    return (
        size == load(other.request_size, other_row)
        and item_size == load(other.item_size, other_row)
        and same_text(
            one.item,
            load(one.item_at, row) - one.item_first,
            other.item,
            load(other.item_at, other_row) - other.item_first,
            item_size,
        )
        and same_text(
            one.request,
            load(one.request_at, row) - one.request_first,
            other.request,
            load(other.request_at, other_row) - other.request_first,
            size,
        )
    )


@njit
def _alive(pairs, row, wanted, slots, last, alive, first):  # type: ignore[no-untyped-def]
    """The slot of a pair in a table of alive rows, or the empty one where it would be; `slots` is a pointer."""
    slot = np.int64(wanted & np.uint64(last))
    while load(slots, 2 * slot + 1) > 0:
        number = np.int64(load(slots, 2 * slot + 1) - _ONE)
        if load(slots, 2 * slot) == wanted and _same_pair(pairs, row, alive, number - first):
            break
        slot = (slot + 1) & last
    return slot


@njit
def _in_batch(pairs, row, wanted, latest, last, hashes, batch):  # type: ignore[no-untyped-def]
    """The slot of a pair in a table of a batch, or the empty one where it would be; tables are pointers."""
    slot = np.int64(wanted & np.uint64(last))
    while load(latest, slot) > 0:
        other = np.int64(load(latest, slot)) - 1
        if load(hashes, other) == wanted and _same_pair(pairs, row, batch, other):
            break
        slot = (slot + 1) & last
    return slot


@njit
def _ask_for_slot(slots, last, hashes, row, end):  # type: ignore[no-untyped-def]
    """Ask for the slot of a later row, if there is one."""
    if row + _AHEAD < end:
        prefetch(slots, 2 * np.int64(load(hashes, row + _AHEAD) & np.uint64(last)))


def _entries(sources: int) -> tuple[Any, ...]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def hash_pairs(pairs, seed, out):  # type: ignore[no-untyped-def]
        """Hashes of pairs into `out`, uint64 of shape (n,)."""
        places = _places(pairs, 0, 0)
        request_hash = np.uint64(0)
        for row in range(len(out) if sources >= 0 else 0):  # the number becomes part of the key in Numba's cache
            request_hash = _request_hash(places, row, request_hash, seed)
            out[row] = _pair_hash(places, row, request_hash, seed)

    @njit(cache=True, nogil=True)
    def mark_fresh(pairs, on_time, ingested, alive, slots, seed, retention_ms, batch):  # type: ignore[no-untyped-def]
        """Find the rows that are in no alive row, nor earlier in the batch, within the retention.

        Args:
            pairs: `PairColumns` of the batch.
            on_time: bool of each row; the others are passed over.
            ingested: int64 of each row, never decreasing.
            alive: an `AliveColumns`.
            slots: uint64 of shape (n, 2), the table of alive rows.
            seed: uint64, of the hashes.
            retention_ms: after which a row is not seen.
            batch: a `BatchTable`, filled.
        """
        new = _places(pairs, 0, 0)
        known = _places(alive.pairs, alive.request_first, alive.item_first)
        request_hash = np.uint64(0)
        for row in range(len(on_time) if sources >= 0 else 0):
            request_hash = _request_hash(new, row, request_hash, seed)
            batch.hashes[row] = _pair_hash(new, row, request_hash, seed)
        table, last = pointer(slots), np.int64(len(slots) - 1)
        latest, newest, hashes = pointer(batch.latest), np.int64(len(batch.latest) - 1), pointer(batch.hashes)
        for row in range(len(on_time)):
            _ask_for_slot(table, last, hashes, row, len(on_time))
            wanted = batch.hashes[row]
            batch.before[row], batch.fresh[row] = -1, False
            if not on_time[row]:
                continue
            number = np.int64(slots[_alive(new, row, wanted, table, last, known, alive.first), 1]) - 1
            if number >= 0 and ingested[row] - alive.ingested[number - alive.first] <= retention_ms:
                continue
            slot = _in_batch(new, row, wanted, latest, newest, hashes, new)
            other = np.int64(batch.latest[slot]) - 1
            if other < 0 or ingested[row] - ingested[other] > retention_ms:
                batch.latest[slot], batch.before[row], batch.fresh[row] = row + 1, other, True

    @njit(cache=True, nogil=True)
    def find_rows(  # type: ignore[no-untyped-def]
        pairs, ingested, alive, slots, seed, shown, shown_ingested, batch, rank, end, retention_ms, wait_ms, found
    ):
        """Number of the first row that each click can see, -1 where there is none.

        Args:
            pairs: `PairColumns` of the clicks.
            ingested: int64 of each click.
            alive: as in `mark_fresh`.
            slots: as in `mark_fresh`.
            seed: as in `mark_fresh`.
            shown: `PairColumns` of the batch's rows.
            shown_ingested: int64 of these.
            batch: their `BatchTable`.
            rank: int64, how many fresh rows lie before each of them.
            end: number of the first fresh row.
            retention_ms: a click that comes later does not see the row.
            wait_ms: a click that came so much earlier does not either.
            found: int64 of each click, filled.
        """
        clicks, new = _places(pairs, 0, 0), _places(shown, 0, 0)
        known = _places(alive.pairs, alive.request_first, alive.item_first)
        table, last = pointer(slots), np.int64(len(slots) - 1)
        latest, newest, hashes = pointer(batch.latest), np.int64(len(batch.latest) - 1), pointer(batch.hashes)
        for click in range(len(ingested) if sources >= 0 else 0):
            wanted = _pair_hash(clicks, click, _request_hash(clicks, click, np.uint64(0), seed), seed)
            found[click] = -1
            number = np.int64(slots[_alive(clicks, click, wanted, table, last, known, alive.first), 1]) - 1
            if number >= 0:
                age = ingested[click] - alive.ingested[number - alive.first]
                if -wait_ms <= age <= retention_ms:
                    found[click] = number
                    continue
            row = np.int64(batch.latest[_in_batch(clicks, click, wanted, latest, newest, hashes, new)]) - 1
            while row >= 0:
                if -wait_ms <= ingested[click] - shown_ingested[row] <= retention_ms:
                    found[click] = end + rank[row]
                row = batch.before[row]

    @njit(cache=True, nogil=True)
    def add_rows(alive, hashes, start, slots):  # type: ignore[no-untyped-def]
        """Enter the alive rows from number `start` on, whose hashes are given; how many pairs were not there."""
        known = _places(alive.pairs, alive.request_first, alive.item_first)
        table, last, wanted = pointer(slots), np.int64(len(slots) - 1), pointer(hashes)
        added = 0
        for place in range(len(hashes) if sources >= 0 else 0):
            _ask_for_slot(table, last, wanted, place, len(hashes))
            row = start - alive.first + place
            slot = _alive(known, row, hashes[place], table, last, known, alive.first)
            added += slots[slot, 1] == 0
            slots[slot, 0], slots[slot, 1] = hashes[place], np.uint64(start + place + 1)
        return added

    @njit(cache=True, nogil=True)
    def drop_rows(hashes, start, end, slots):  # type: ignore[no-untyped-def]
        """Take rows start <= number < end out, whose hashes are given; how many of them were entered last."""
        last = np.int64(len(slots) - 1)
        table, wanted = pointer(slots), pointer(hashes)
        dropped = 0
        for number in range(start, end if sources >= 0 else start):
            _ask_for_slot(table, last, wanted, number - start, len(hashes))
            entry = np.uint64(number + 1)
            slot = np.int64(hashes[number - start] & np.uint64(last))
            while slots[slot, 1] > 0 and slots[slot, 1] != entry:
                slot = (slot + 1) & last
            if slots[slot, 1] == 0:
                continue  # the pair was used again
            dropped += 1
            # What lies behind moves up, so that no search stops early (Knuth, volume 3, algorithm 6.4R).
            hole, at = slot, (slot + 1) & last
            while slots[at, 1] > 0:
                home = np.int64(slots[at, 0] & np.uint64(last))
                if ((at - home) & last) >= ((at - hole) & last):
                    slots[hole, 0], slots[hole, 1] = slots[at, 0], slots[at, 1]
                    hole = at
                at = (at + 1) & last
            slots[hole, 1] = 0
        return dropped

    @njit(cache=True, nogil=True)
    def move_rows(slots, larger):  # type: ignore[no-untyped-def]
        """Enter all rows of a table into another, empty one."""
        last = np.int64(len(larger) - 1)
        for old in range(len(slots) if sources >= 0 else 0):
            if slots[old, 1] > 0:
                slot = np.int64(slots[old, 0] & np.uint64(last))
                while larger[slot, 1] > 0:
                    slot = (slot + 1) & last
                larger[slot, 0], larger[slot, 1] = slots[old, 0], slots[old, 1]

    return hash_pairs, mark_fresh, find_rows, add_rows, drop_rows, move_rows


hash_pairs, mark_fresh, find_rows, add_rows, drop_rows, move_rows = _entries(fingerprint(numba_memory, numba_texts))

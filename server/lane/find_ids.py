"""Compiled lookup of item ids by their bytes, and the bytes of an item number.

Invariants: an id is found by comparing all its bytes, the hash only says where to look; an id that was edited since
the graph was built is found in the table of edits before the one of the graph. Nothing behind an id's end is read.
"""

import numpy as np
from numba import njit

from bandits.numba_addresses import int32_at, int64_at, uint8_at, uint64_at
from bandits.numba_draws import mix
from bandits.numba_inner import inner
from bandits.numba_memory import load
from streams.wire.fields import load_word, same_bytes

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_KEY = np.uint64(0x243F6A8885A308D3)  # of the first lane of bandits.hashing
_BYTE_BITS = np.uint64(8)

# One table: slots hold the number of an entry or -1; entry e has two hashes, and bytes from starts[e] to
# starts[e + 1].
TABLE = ("slots", "mask", "hashes", "pool", "starts")
# The row of an index: the graph's table, how many numbers it has, the table of edits (mask -1: none) and the number
# of each of its entries, then the ids of the numbers behind the graph's.
INDEX = (*TABLE, "n_base", *(f"edited_{name}" for name in TABLE), "edited_number", "later_pool", "later_starts")
_N_BASE, _EDITED, _NUMBER, _LATER = 5, 6, 11, 12


@inner
def hash_bytes(data, at, end):  # type: ignore[no-untyped-def]
    """The first hash of `bandits.hashing.hash_strings`."""
    size = end - at
    state = mix(np.uint64(size) ^ _KEY)
    for start in range(at, at + (size >> 3 << 3), 8):
        state = mix((state + _GOLDEN) ^ load_word(data, start))
    word = np.uint64(0)
    for place in range(end - 1, at + (size >> 3 << 3) - 1, -1):
        word = (word << _BYTE_BITS) | np.uint64(load(data, place))
    return mix((state + _GOLDEN) ^ word)


@inner
def _entry(row, first, data, at, end, wanted):  # type: ignore[no-untyped-def]
    """Number of the entry of a table, or -1; `first` is where the table begins within the row."""
    slots, mask = int32_at(load(row, first)), load(row, first + 1)
    hashes = uint64_at(load(row, first + 2))
    pool, starts = uint8_at(load(row, first + 3)), int64_at(load(row, first + 4))
    slot = np.int64(wanted & np.uint64(mask))
    while True:
        entry = np.int64(load(slots, slot))
        if entry < 0:
            return entry
        if load(hashes, 2 * entry) == wanted:
            start = load(starts, entry)
            size = load(starts, entry + 1) - start
            if size == end - at and same_bytes(data, at, pool, start, size):
                return entry
        slot = (slot + 1) & mask


@inner
def find(row, data, at, end):  # type: ignore[no-untyped-def]
    """Number of the item whose id is data[at:end], or -1; `row` and `data` are pointers."""
    wanted = hash_bytes(data, at, end)
    if load(row, _EDITED + 1) >= 0:
        entry = _entry(row, _EDITED, data, at, end, wanted)
        if entry >= 0:
            return np.int64(load(int32_at(load(row, _NUMBER)), entry))
    return _entry(row, 0, data, at, end, wanted)


@inner
def place_of(row, number):  # type: ignore[no-untyped-def]
    """Address of the bytes of an item's id, and how many."""
    n_base = load(row, _N_BASE)
    first = 3 if number < n_base else _LATER
    starts, at = int64_at(load(row, first + 1)), number if number < n_base else number - n_base
    start = load(starts, at)
    return load(row, first) + start, load(starts, at + 1) - start


@njit(cache=True)
def fill_slots(hashes, slots):  # type: ignore[no-untyped-def]
    """Enter all entries into slots of -1, a power of two of them and more than there are entries."""
    mask = np.uint64(len(slots) - 1)
    for entry in range(len(hashes)):
        slot = hashes[entry, 0] & mask
        while slots[np.int64(slot)] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[np.int64(slot)] = entry

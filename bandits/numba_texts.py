"""Compiled work on strings in a buffer of UTF-8: hash, compare, copy, number.

Promises: nothing outside of the given pieces is read; texts are told apart by their bytes, hashes only say where to
look. Nothing is checked here: places and sizes lie within the buffer.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types

from bandits import hashing, numba_memory
from bandits.hashing import LANES
from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_memory import intrinsic, load, pointer, prefetch, store

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LANE = LANES[0]
_WORD = 8  # bytes
_AHEAD = 16  # texts that are looked for at once


@intrinsic
def load_word(typingctx, start, index):  # type: ignore[no-untyped-def]
    """The little-endian uint64 whose first byte is number `index` behind a pointer to bytes."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address = builder.gep(arguments[0], [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(start, types.int64), codegen


@intrinsic
def store_word(typingctx, start, index, word):  # type: ignore[no-untyped-def]
    """Write a little-endian uint64 to the eight bytes from number `index` behind a pointer on."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address = builder.gep(arguments[0], [arguments[1]])
        builder.store(arguments[2], builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(start, types.int64, types.uint64), codegen


@njit(inline="always")
def mixed(z):  # type: ignore[no-untyped-def]
    """SplitMix64 finaliser (`bandits.hashing.mix`)."""
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIER_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIER_2
    return z ^ (z >> np.uint64(31))


@inner
def _tail(data, at, size):  # type: ignore[no-untyped-def]
    """The last `size` < 8 bytes as a number."""
    word = np.uint64(0)
    for place in range(size):
        word |= np.uint64(load(data, at + place)) << np.uint64(8 * place)
    return word


@njit(inline="always")
def _last_word(data, at, end, size):  # type: ignore[no-untyped-def]
    """What is left of a piece that has been read up to `at`, as a number; of longer ones the last eight bytes."""
    return load_word(data, end - _WORD) if size >= _WORD else _tail(data, at, end - at)


@inner
def text_hash(data, at, size, seed):  # type: ignore[no-untyped-def]
    """Hash of a text; of no meaning outside of this process."""
    state = seed ^ np.uint64(size)
    end = at + size
    while at + _WORD < end:
        state = (state ^ load_word(data, at)) * _MULTIPLIER_1
        state ^= state >> np.uint64(32)
        at += _WORD
    return mixed(state + _last_word(data, at, end, size))


@inner
def same_text(one, at, other, other_at, size):  # type: ignore[no-untyped-def]
    """True if two pieces of that size are equal."""
    end, other_end = at + size, other_at + size
    while at + _WORD < end:
        if load_word(one, at) != load_word(other, other_at):
            return False
        at, other_at = at + _WORD, other_at + _WORD
    return _last_word(one, at, end, size) == _last_word(other, other_at, other_end, size)


@inner
def copy_text(data, at, size, out, to):  # type: ignore[no-untyped-def]
    """Copy a piece to where nothing of it lies."""
    if size < _WORD:
        for place in range(size):
            store(out, to + place, load(data, at + place))
        return
    for place in range(0, size - _WORD, _WORD):
        store_word(out, to + place, load_word(data, at + place))
    store_word(out, to + size - _WORD, load_word(data, at + size - _WORD))


class _Buffer(NamedTuple):
    """Texts as pointers: bytes, place and size of each."""

    data: Any
    at: Any
    size: Any


@inner
def _ask_for_texts(texts, known, table, last, seed, slots, start, end):  # type: ignore[no-untyped-def]
    """Slots of texts start:end, while what lies behind them is asked for, from one stage to the next."""
    for text in range(start, end):
        slot = np.int64(text_hash(texts.data, load(texts.at, text), load(texts.size, text), seed) & last)
        store(slots, text - start, slot)
        prefetch(table, slot)
    for place in range(end - start):
        number = np.int64(load(table, load(slots, place))) - 1
        prefetch(known.at, number)
        prefetch(known.size, number)
    for place in range(end - start):
        number = np.int64(load(table, load(slots, place))) - 1
        if number >= 0:
            prefetch(known.data, load(known.at, number))


def _entries(sources: int) -> tuple[Any, Any, Any, Any]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def copy_texts(data, at, size, out):  # type: ignore[no-untyped-def]
        """Write texts one after the other into `out`, uint8 with room for them."""
        source, target, to = pointer(data), pointer(out), 0
        for text in range(len(at)):
            if sources >= 0:  # a value from outside the function becomes part of the key in Numba's cache
                copy_text(source, at[text], size[text], target, to)
            to += size[text]

    @njit(cache=True, nogil=True)
    def number_texts(data, at, size, more, more_at, more_size, seed, table, number, first):  # type: ignore[no-untyped-def]
        """Number distinct texts in the order in which they come; how many there are.

        Args:
            data: uint8, the buffer of the texts.
            at: int64 of shape (n,), where each begins.
            size: int64 of shape (n,), bytes of each.
            more: uint8, the buffer of the texts that follow.
            more_at: int64 of shape (m,), where each of these begins.
            more_size: int64 of shape (m,), bytes of each.
            seed: uint64, of the hashes.
            table: int32 zeros, a power of two of them and at least twice as many as texts.
            number: int32 of shape (n + m,), filled with the number of each.
            first: int64 of shape (n + m,), filled with where each distinct one comes first.
        """
        count, last, n = np.int64(0), np.uint64(len(table) - 1), len(at)
        one = _Buffer(pointer(data), pointer(at), pointer(size))
        other = _Buffer(pointer(more), pointer(more_at), pointer(more_size))
        for text in range(n + len(more_at)):
            own, place = (one, text) if text < n else (other, text - n)
            wanted, length = load(own.at, place), load(own.size, place)
            slot = np.int64(text_hash(own.data, wanted, length, seed) & last)
            while sources >= 0:
                found = np.int64(table[slot]) - 1
                if found < 0:
                    first[count] = text
                    count += 1
                    table[slot] = count
                    number[text] = count - 1
                    break
                known = first[found]
                its, there = (one, known) if known < n else (other, known - n)
                if load(its.size, there) == length and same_text(
                    its.data, load(its.at, there), own.data, wanted, length
                ):
                    number[text] = found
                    break
                slot = (slot + 1) & np.int64(last)
        return count

    @njit(cache=True, nogil=True)
    def find_texts(data, at, size, seed, known, known_at, known_size, table, number):  # type: ignore[no-untyped-def]
        """Number of each text among known ones, -1 where it is none of them.

        Args:
            data: uint8, the buffer of the texts.
            at: int64 of shape (n,), where each begins.
            size: int64 of shape (n,), bytes of each.
            seed: as the table was filled with.
            known: uint8, the buffer of the known texts.
            known_at: int64, where each of these begins.
            known_size: int64, bytes of each.
            table: as `number_texts` left it.
            number: int32 of shape (n,), filled.
        """
        slots = np.empty(_AHEAD, np.int64)
        for start in range(0, len(at), _AHEAD):
            end = min(start + _AHEAD, len(at) if sources >= 0 else 0)
            _ask_for_texts(
                _Buffer(pointer(data), pointer(at), pointer(size)),
                _Buffer(pointer(known), pointer(known_at), pointer(known_size)),
                pointer(table),
                np.uint64(len(table) - 1),
                seed,
                pointer(slots),
                start,
                end,
            )
            for text in range(start, end):
                slot = slots[text - start]
                number[text] = -1
                while table[slot] > 0:
                    found = np.int64(table[slot]) - 1
                    if known_size[found] == size[text] and same_text(
                        pointer(known), known_at[found], pointer(data), at[text], size[text]
                    ):
                        number[text] = found
                        break
                    slot = (slot + 1) & np.int64(len(table) - 1)

    @njit(cache=True, nogil=True)
    def first_hashes(data, at, size, out):  # type: ignore[no-untyped-def]
        """The first column of `bandits.hashing.hash_strings` into `out`, uint64 of shape (n,)."""
        source = pointer(data)
        for text in range(len(at)):
            place, end = at[text], at[text] + size[text]
            state = mixed(np.uint64(size[text]) ^ _LANE)
            while sources >= 0 and place + 8 <= end:
                state = mixed((state + _GOLDEN) ^ load_word(source, place))
                place += 8
            out[text] = mixed((state + _GOLDEN) ^ _tail(source, place, end - place))

    return copy_texts, number_texts, find_texts, first_hashes


copy_texts, number_texts, find_texts, first_hashes = _entries(fingerprint(numba_memory, hashing))

"""Compiled readers of single values in a buffer: varints, lengths, floats, UTF-8, and a dictionary of byte strings.

Promises: nothing at or behind the given end is read; a reader answers -1 instead of a place where it finds
anything but the usual form of what it reads, be it wrong or merely rare.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from bandits.numba_inner import inner
from bandits.numba_memory import LANES, intrinsic, load, store

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_ROW = ir.VectorType(ir.IntType(32), LANES)
_WORD, _TOP_BITS = 8, np.uint64(0x8080808080808080)
_MOST_PROBES = 64  # of the dictionary: ids made to collide must not stop the stream


def _loader(numba_type: Any, llvm_type: Any) -> Any:
    @intrinsic
    def load_as(typingctx, start, index):  # type: ignore[no-untyped-def]
        """The little-endian value whose first byte is number `index`."""

        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address = builder.gep(arguments[0], [arguments[1]])
            return builder.load(builder.bitcast(address, llvm_type.as_pointer()), align=1)

        return numba_type(start, types.int64), codegen

    return load_as


load_word = _loader(types.uint64, ir.IntType(64))
load_float64 = _loader(types.float64, ir.DoubleType())
load_float32 = _loader(types.float32, ir.FloatType())


@intrinsic
def lower_lanes(typingctx, start, index, value):  # type: ignore[no-untyped-def]
    """Bit i is set where element `index + i` is below `value`, 0 <= i < LANES; int32 elements, uint64 bits."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        at = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), _ROW.as_pointer())
        undefined, number = ir.Constant(_ROW, ir.Undefined), ir.IntType(32)
        first = builder.insert_element(undefined, arguments[2], number(0))
        repeated = builder.shuffle_vector(first, undefined, ir.Constant(_ROW, [0] * LANES))
        lower = builder.icmp_signed("<", builder.load(at, align=4), repeated)
        return builder.zext(builder.bitcast(lower, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(start, types.int64, types.int32), codegen


@intrinsic
def number_of_bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """How many bits are set."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


@njit(inline="always")
def varint(data, at, end):  # type: ignore[no-untyped-def]
    """A number of at most nine bytes, 0 <= number < 2^63, and where it ends."""
    number, stop = np.int64(0), np.int64(-1)
    if at < end:
        number, stop = np.int64(load(data, at)), at + 1
        if number >= 0x80:
            number, stop = _long_varint(data, at, end)
    return number, stop


@inner
def _long_varint(data, at, end):  # type: ignore[no-untyped-def]
    number = np.int64(load(data, at)) & 0x7F
    for place in range(1, 9):
        if at + place >= end:
            return np.int64(0), -1
        byte = np.int64(load(data, at + place))
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    return np.int64(0), -1


@inner
def extent(data, at, end):  # type: ignore[no-untyped-def]
    """Where a field with a length starts and where it ends; -1 as its end if that is not within the buffer."""
    size, start = varint(data, at, end)
    if start < 0 or size > end - start or (start - at > 1 and load(data, start - 1) == 0):
        return 0, -1
    return start, start + size


@inner
def is_utf8(data, at, end):  # type: ignore[no-untyped-def]
    """True for well-formed UTF-8 (Unicode 15, table 3-7): no surrogates, no overlong forms, nothing cut."""
    if end - at >= _WORD:
        others = load_word(data, end - _WORD)
        for place in range(at, end - _WORD, _WORD):
            others |= load_word(data, place)
        if others & _TOP_BITS == np.uint64(0):
            return True
    while at < end:
        byte = np.int64(load(data, at))
        if byte < 0x80:
            at += 1
            continue
        low, high = np.int64(0x80), np.int64(0xBF)
        if 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more = 2
            if byte == 0xE0:
                low = np.int64(0xA0)
            elif byte == 0xED:
                high = np.int64(0x9F)
        elif 0xF0 <= byte <= 0xF4:
            more = 3
            if byte == 0xF0:
                low = np.int64(0x90)
            elif byte == 0xF4:
                high = np.int64(0x8F)
        else:
            return False
        if end - at <= more or not low <= np.int64(load(data, at + 1)) <= high:
            return False
        for place in range(2, more + 1):
            if np.int64(load(data, at + place)) & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@inner
def same_bytes(one, at, other, other_at, size):  # type: ignore[no-untyped-def]
    """True if two pieces of that size are equal."""
    if size >= _WORD:
        different = load_word(one, at + size - _WORD) ^ load_word(other, other_at + size - _WORD)
        for place in range(0, size - _WORD, _WORD):
            different |= load_word(one, at + place) ^ load_word(other, other_at + place)
        return different == np.uint64(0)
    same = True
    for place in range(size):
        same &= load(one, at + place) == load(other, other_at + place)
    return same


@inner
def _hash(data, at, end):  # type: ignore[no-untyped-def]
    state, word = np.uint64(end - at), np.uint64(0)
    if end - at >= _WORD:
        word = load_word(data, end - _WORD)
        for place in range(at, end - _WORD, _WORD):
            state = (state ^ load_word(data, place)) * _MULTIPLIER_1
            state ^= state >> np.uint64(32)
    else:
        for place in range(end - at):
            word |= np.uint64(load(data, at + place)) << np.uint64(8 * place)
    z = state * GOLDEN ^ word
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIER_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIER_2
    return z ^ (z >> np.uint64(31))


@inner
def number_of(data, at, end, table, last_slot, count, known):  # type: ignore[no-untyped-def]
    """Number of the bytes at:end among the distinct strings; `count` if new and entered, -1 without room.

    The table has a power of two of int32 slots: a number + 1, or 0. Of each of the `count` distinct strings there
    is where it starts, its size, its hash, and something else: four int64.
    """
    wanted = _hash(data, at, end)
    slot = np.int64(wanted & np.uint64(last_slot))
    for _ in range(_MOST_PROBES):
        number = np.int64(load(table, slot)) - 1
        if number < 0:
            store(table, slot, np.int32(count + 1))
            store(known, 4 * count, at)
            store(known, 4 * count + 1, end - at)
            store(known, 4 * count + 2, np.int64(wanted))
            return np.int64(count)
        if (
            load(known, 4 * number + 2) == np.int64(wanted)
            and load(known, 4 * number + 1) == end - at
            and same_bytes(data, load(known, 4 * number), data, at, end - at)
        ):
            return number
        slot = (slot + 1) & last_slot
    return np.int64(-1)


@inner
def with_room(table, known, count, more):  # type: ignore[no-untyped-def]
    """The table, or a larger one, at most half full once `more` strings have been entered."""
    if 2 * (count + more) <= len(table):
        return table
    size = len(table)
    while size < 4 * (count + more):
        size *= 2
    larger = np.zeros(size, np.int32)
    for number in range(count):
        slot = np.int64(np.uint64(known[number, 2]) & np.uint64(size - 1))
        while larger[slot] != 0:
            slot = (slot + 1) & (size - 1)
        larger[slot] = number + 1
    return larger

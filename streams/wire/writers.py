"""Compiled writers of protobuf's values into a buffer that has room for them, whole columns at a time.

Each answers where the next byte goes. Encoding: https://protobuf.dev/programming-guides/encoding
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from bandits.numba_inner import inner
from bandits.numba_memory import intrinsic, load, store

VARINT, EIGHT_BYTES, LENGTH = 0, 1, 2  # wire types
_LOW, _MORE, _SEVEN = np.uint64(0x7F), np.uint64(0x80), np.uint64(7)


def _storer(numba_type: Any, llvm_type: Any) -> Any:
    def put(typingctx, start, index, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address = builder.gep(arguments[0], [arguments[1]])
            builder.store(arguments[2], builder.bitcast(address, llvm_type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(start, types.int64, numba_type), codegen

    return intrinsic(put)


store_int32 = _storer(types.int32, ir.IntType(32))  # little-endian, from byte `index` on
store_int64 = _storer(types.int64, ir.IntType(64))


@njit(inline="always")
def put_byte(out, at, byte):  # type: ignore[no-untyped-def]
    """One byte."""
    store(out, at, np.uint8(byte))
    return at + 1


@inner
def put_varint(out, at, number):  # type: ignore[no-untyped-def]
    """`number` is uint64; a signed one goes as its 64 bits."""
    while number > _LOW:
        store(out, at, np.uint8((number & _LOW) | _MORE))
        number >>= _SEVEN
        at += 1
    store(out, at, np.uint8(number))
    return at + 1


@inner
def varint_size(number):  # type: ignore[no-untyped-def]
    """Bytes of a number >= 0."""
    size = 1
    while number > 127:
        number >>= 7
        size += 1
    return size


@inner
def head_size(field, size):  # type: ignore[no-untyped-def]
    """Bytes of a tag and a length."""
    return varint_size(np.int64(field) << 3) + varint_size(np.int64(size))


@inner
def put_head(out, at, field, size):  # type: ignore[no-untyped-def]
    """Tag and length of a field of so many bytes."""
    at = put_varint(out, at, np.uint64(np.int64(field) << 3 | LENGTH))
    return put_varint(out, at, np.uint64(size))


@inner
def put_piece(out, at, data, start, size):  # type: ignore[no-untyped-def]
    """A piece of a buffer; `data` is a pointer to bytes."""
    for place in range(size):
        store(out, at + place, load(data, start + place))
    return at + size

"""Compiled writers of single protobuf values into a buffer that has room for them.

Each answers where the next byte goes. Encoding: https://protobuf.dev/programming-guides/encoding
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from bandits.numba_addresses import uint8_at
from bandits.numba_inner import inner
from bandits.numba_memory import intrinsic, load, store

_LOW, _MORE, _SEVEN = np.uint64(0x7F), np.uint64(0x80), np.uint64(7)


def _storer(numba_type: Any, llvm_type: Any) -> Any:
    def put(typingctx, start, index, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address = builder.gep(arguments[0], [arguments[1]])
            builder.store(arguments[2], builder.bitcast(address, llvm_type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(start, types.int64, numba_type), codegen

    return intrinsic(put)


store_float64 = _storer(types.float64, ir.DoubleType())
store_float32 = _storer(types.float32, ir.FloatType())


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
def put_bytes(out, at, data, start, size):  # type: ignore[no-untyped-def]
    """A piece of a buffer; `data` is a pointer."""
    for place in range(size):
        store(out, at + place, load(data, start + place))
    return at + size


@inner
def put_text(out, at, tag, data, start, size):  # type: ignore[no-untyped-def]
    """A field with a length; `data` is a pointer."""
    at = put_varint(out, put_byte(out, at, tag), np.uint64(size))
    return put_bytes(out, at, data, start, size)


@inner
def put_text_at(out, at, tag, address, size):  # type: ignore[no-untyped-def]
    """A field with a length; its bytes are at an address."""
    return put_text(out, at, tag, uint8_at(address), 0, size)


@inner
def put_double(out, at, tag, value):  # type: ignore[no-untyped-def]
    """A double; 0 is not written, as it is the default."""
    if value == 0.0:
        return at
    at = put_byte(out, at, tag)
    store_float64(out, at, value)
    return at + 8

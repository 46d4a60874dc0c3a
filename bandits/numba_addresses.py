"""Memory of arrays by its address, for compiled loops that are given one row of addresses instead of twenty arrays.

An array argument costs a compiled call about 0.1 us, and a row of addresses costs that once. Nothing here checks a
bound and nothing keeps an array alive: whoever made the row holds the arrays.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # as Numba types it, an intrinsic would have to be called with its typing context


def _reader(kind: Any) -> Any:
    """What turns an address into a pointer to elements of a kind."""

    def at(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), codegen  # type: ignore[no-untyped-call]

    return intrinsic(at)


int64_at = _reader(types.int64)
int32_at = _reader(types.int32)
int16_at = _reader(types.int16)
uint64_at = _reader(types.uint64)
uint8_at = _reader(types.uint8)
float64_at = _reader(types.float64)
float32_at = _reader(types.float32)


def caller(kinds: tuple[Any, ...]) -> Any:
    """What calls the code at an address with a tuple of arguments of these kinds; it returns nothing."""

    def call(typingctx, address, arguments):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, given):  # type: ignore[no-untyped-def]
            types_ = [context.get_value_type(kind) for kind in kinds]
            function = ir.FunctionType(ir.VoidType(), types_).as_pointer()
            values = [builder.extract_value(given[1], at) for at in range(len(types_))]
            builder.call(builder.inttoptr(given[0], function), values)
            return context.get_dummy_value()

        return types.void(types.int64, types.Tuple(kinds)), codegen  # type: ignore[no-untyped-call]

    return intrinsic(call)


def pointers_to(kind: Any) -> Any:
    """The type of a pointer to elements of a kind."""
    return types.CPointer(kind)  # type: ignore[no-untyped-call]


@intrinsic
def address_of(typingctx, array):  # type: ignore[no-untyped-def]
    """Address of the first element of a contiguous array."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


def addresses(*arrays: npt.NDArray[Any]) -> list[int]:
    """Addresses of contiguous arrays.

    Raises:
        ValueError: an array is not contiguous.
    """
    for array in arrays:
        if not array.flags.c_contiguous:
            raise ValueError(f"array: expected contiguous memory, got strides {array.strides}")
    return [array.ctypes.data if array.size else 0 for array in arrays]


def row(numbers: list[int]) -> npt.NDArray[np.int64]:
    """Addresses and sizes as a compiled function takes them."""
    return np.array(numbers, np.int64)

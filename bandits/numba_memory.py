"""Memory access for compiled loops: raw pointers, prefetch, many compares at once.

A pointer, unlike an array, can be handed from one inlined function to another without counting references (two
atomic additions each time) and is indexed without a check for negative numbers. Nothing here checks a bound and
nothing keeps the array alive: the caller holds the array and has validated what indexes it.

The compares are portable vector code, which LLVM lowers to whatever the processor has.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

LANES = 16  # compares at once: a cache line of int32
SHORT_LANES = 32  # likewise of int16

intrinsic: Any = _intrinsic  # as Numba types it, an intrinsic would have to be called with its typing context
_BITS = ir.IntType(64)
_KIND = ir.IntType(32)
_ROW = ir.VectorType(ir.IntType(32), LANES)
_SHORT = ir.IntType(16)
_SHORT_ROW = ir.VectorType(_SHORT, SHORT_LANES)
_INT32_POINTER = types.CPointer(types.int32)  # type: ignore[no-untyped-call]
_INT16_POINTER = types.CPointer(types.int16)  # type: ignore[no-untyped-call]
_MOST_LOCALITY, _DATA = 3, 1  # arguments of llvm.prefetch


@intrinsic
def pointer(typingctx, array):  # type: ignore[no-untyped-def]
    """Pointer to the first element of a contiguous array."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), codegen  # type: ignore[no-untyped-call]


@intrinsic
def load(typingctx, start, index):  # type: ignore[no-untyped-def]
    """Element `index` behind a pointer."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return start.dtype(start, types.int64), codegen


@intrinsic
def store(typingctx, start, index, value):  # type: ignore[no-untyped-def]
    """Set element `index` behind a pointer."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(start, types.int64, start.dtype), codegen


@intrinsic
def advance(typingctx, start, index):  # type: ignore[no-untyped-def]
    """Pointer to element `index` behind a pointer.

    Inner loops that count from a pointer of their own need fewer registers, and what does not fit into registers
    costs more than the arithmetic of a fact.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.int64), codegen


@intrinsic
def prefetch(typingctx, start, index):  # type: ignore[no-untyped-def]
    """Ask the cache for the line of element `index` behind a pointer; any index is allowed."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), ir.IntType(8).as_pointer())
        wanted = ir.FunctionType(ir.VoidType(), [address.type, _KIND, _KIND, _KIND])
        function = cgutils.get_or_insert_function(builder.module, wanted, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [address, _KIND(0), _KIND(_MOST_LOCALITY), _KIND(_DATA)])
        return context.get_dummy_value()

    return types.void(start, types.int64), codegen


@intrinsic
def equal_lanes(typingctx, start, index, value):  # type: ignore[no-untyped-def]
    """Bit i is set where element `index + i` equals `value`, 0 <= i < LANES; int32 elements, uint64 bits."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        at = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), _ROW.as_pointer())
        row = builder.load(at, align=4)
        undefined = ir.Constant(_ROW, ir.Undefined)
        first = builder.insert_element(undefined, arguments[2], _KIND(0))
        repeated = builder.shuffle_vector(first, undefined, ir.Constant(_ROW, [0] * LANES))
        same = builder.icmp_signed("==", row, repeated)
        return builder.zext(builder.bitcast(same, ir.IntType(LANES)), _BITS)

    return types.uint64(_INT32_POINTER, types.int64, types.int32), codegen


@intrinsic
def equal_short_lanes(typingctx, start, value):  # type: ignore[no-untyped-def]
    """Bit i is set where element i equals `value`, 0 <= i < SHORT_LANES; int16 elements, uint64 bits."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        row = builder.load(builder.bitcast(arguments[0], _SHORT_ROW.as_pointer()), align=2)
        undefined = ir.Constant(_SHORT_ROW, ir.Undefined)
        first = builder.insert_element(undefined, arguments[1], _KIND(0))
        repeated = builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_KIND, SHORT_LANES), [0] * SHORT_LANES)
        )
        same = builder.icmp_signed("==", row, repeated)
        return builder.zext(builder.bitcast(same, ir.IntType(SHORT_LANES)), _BITS)

    return types.uint64(_INT16_POINTER, types.int16), codegen


@intrinsic
def lowest_bit(typingctx, mask):  # type: ignore[no-untyped-def]
    """Number of the lowest bit that is set; 64 if none is."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), codegen

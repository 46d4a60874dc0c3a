"""Arithmetic on thirty-two float32 numbers at once, by pointers: portable vector code, which LLVM lowers.

The compiler makes vector code of plain loops too, but asks first whether their arrays overlap, which for short
loops costs more than they do. Nothing here checks a bound.

Invariant: what is written is never too small to be a normal number, which would cost a hundred times as much.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from bandits.numba_memory import intrinsic

TOGETHER = 32
LEAST = np.float32(1e-25)

_FLOAT = ir.FloatType()
_LANES = ir.VectorType(_FLOAT, TOGETHER)
_POINTER = types.CPointer(types.float32)  # type: ignore[no-untyped-call]


def _load(builder: Any, pointer: Any, offset: int = 0) -> Any:
    address = builder.gep(pointer, [ir.Constant(ir.IntType(64), offset)])
    return builder.load(builder.bitcast(address, _LANES.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, _LANES.as_pointer()), align=4)


def _least() -> Any:
    return ir.Constant(_LANES, [ir.Constant(_FLOAT, float(LEAST))] * TOGETHER)


@intrinsic
def count_lanes(typingctx, row, coin):  # type: ignore[no-untyped-def]
    """Add coin * (the TOGETHER numbers before row - row) to row."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        here, less, coins = (
            _load(builder, arguments[0]),
            _load(builder, arguments[0], -TOGETHER),
            _load(builder, arguments[1]),
        )
        moved = builder.fmul(coins, builder.fsub(less, here))
        _store(builder, builder.fadd(builder.fadd(here, _least()), moved), arguments[0])
        return context.get_dummy_value()

    return types.void(_POINTER, _POINTER), codegen


@intrinsic
def drop_lanes(typingctx, row, coin):  # type: ignore[no-untyped-def]
    """Take coin * row off row."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        here, coins = _load(builder, arguments[0]), _load(builder, arguments[1])
        left = builder.fsub(here, builder.fmul(coins, here))
        _store(builder, builder.fadd(left, _least()), arguments[0])
        return context.get_dummy_value()

    return types.void(_POINTER, _POINTER), codegen


@intrinsic
def add_product_lanes(typingctx, total, one, other):  # type: ignore[no-untyped-def]
    """Add one * other to total."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        product = builder.fmul(_load(builder, arguments[1]), _load(builder, arguments[2]))
        _store(builder, builder.fadd(_load(builder, arguments[0]), product), arguments[0])
        return context.get_dummy_value()

    return types.void(_POINTER, _POINTER, _POINTER), codegen

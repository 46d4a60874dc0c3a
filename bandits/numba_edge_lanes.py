"""Terms of sixteen edges at once, from cluster-major rows of float32, and their adding up by item.

A row is a, d and b of one edge, rewards and impressions as such (not fixed point). The terms of sixteen edges are
four runs of sixteen float32, `TERMS`; what they add up to are four float32 side by side for each slot.

Portable vector code, which LLVM lowers to whatever the processor has. Nothing here checks a bound: sixteen rows and
sixteen slots are read, whether or not all of them are wanted.

Invariant: a term errs by less than `ROUNDINGS` roundings of float32 of what it is made of, which is itself unless
it is a difference, and then a sum that is kept beside it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bandits.numba_memory import intrinsic
from bandits.policies import HIGHEST_RATE

TOGETHER = 16
ROUNDINGS = 16
# What is added up for an item: its mean; of `centred` the sum of what its mean is the difference of, of `plain` the
# weight of unseen edges; its squared width; of `centred` what the width errs by, in roundings.
MEAN, MAGNITUDE, SQUARE, SLACK = range(4)
TERMS = 4 * TOGETHER
_HIGHEST, _TINY = float(HIGHEST_RATE), 1e-30

_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)
_LANES, _FOUR = ir.VectorType(_FLOAT, TOGETHER), ir.VectorType(_FLOAT, 4)
_POINTER = types.CPointer(types.float32)  # type: ignore[no-untyped-call]
_SLOTS = types.CPointer(types.int32)  # type: ignore[no-untyped-call]


@intrinsic
def plain_lanes(typingctx, rows, terms, w, believed, strength, diagonal):  # type: ignore[no-untyped-def]
    """Terms of `bandits.numba_scores.add_plain`: rows to terms, for edges of weight w.

    `believed` is the prior's mean times its strength. An edge of d = 0 without a prior adds its weight alone.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, terms = arguments[:2]
        w, believed, strength = (_spread(builder, value) for value in arguments[2:5])
        a, d, b = _columns(builder, rows)
        nothing, one = _constant(0.0), _constant(1.0)
        blank = builder.fcmp_ordered("==", d, nothing)
        known = builder.fadd(d, strength)
        unknown = builder.fcmp_ordered("==", known, nothing)
        inverse = builder.fdiv(one, builder.select(unknown, one, known))
        by_a = builder.fdiv(one, builder.select(unknown, one, builder.fadd(a, strength)))
        divisor = builder.select(arguments[5], inverse, by_a)
        mean = builder.fmul(builder.fmul(builder.fadd(b, believed), divisor), w)
        square = builder.fmul(inverse, builder.fmul(w, w))
        _put(
            builder,
            terms,
            builder.select(unknown, nothing, mean),
            builder.select(blank, w, nothing),
            builder.select(unknown, nothing, square),
            nothing,
        )
        return context.get_dummy_value()

    number = types.float32
    return types.void(_POINTER, _POINTER, number, number, number, types.boolean), codegen


@intrinsic
def centred_lanes(typingctx, rows, slots, means, terms, w, strength, rewards, lowest):  # type: ignore[no-untyped-def]
    """Terms of `bandits.numba_scores.add_centred`: rows, and the means of the items in their slots, to terms.

    `strength` is what draws an edge towards its item's mean, in impressions, `rewards` half of it in rewards.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, slots, means, terms = arguments[:4]
        w, strength, rewards, lowest = (_spread(builder, value) for value in arguments[4:])
        a, d, b = _columns(builder, rows)
        of_item = ir.Constant(_LANES, ir.Undefined)
        for lane in range(TOGETHER):
            slot = builder.load(builder.gep(slots, [_INT32(lane)]))
            of_item = builder.insert_element(of_item, builder.load(builder.gep(means, [slot])), _INT32(lane))
        one, highest = _constant(1.0), _constant(_HIGHEST)
        inverse = builder.fdiv(one, builder.fadd(d, strength))
        # theta = m_j + (b + rewards - (a + strength / 2) m_j) / (d + strength)
        more = builder.fadd(b, rewards)
        less = builder.fmul(builder.fadd(a, builder.fmul(_constant(0.5), strength)), of_item)
        theta = builder.fadd(builder.fmul(builder.fsub(more, less), inverse), of_item)
        whole = builder.fadd(builder.fmul(builder.fadd(more, less), inverse), of_item)
        rate = builder.select(builder.fcmp_ordered(">", theta, lowest), theta, lowest)
        rate = builder.select(builder.fcmp_ordered("<", rate, highest), rate, highest)
        part, magnitude = builder.fmul(w, inverse), builder.fmul(whole, w)
        variance = builder.fmul(rate, builder.fsub(one, rate))
        _put(
            builder,
            terms,
            builder.fmul(theta, w),
            magnitude,
            builder.fmul(variance, builder.fmul(part, w)),
            builder.fmul(part, magnitude),
        )
        return context.get_dummy_value()

    number = types.float32
    return types.void(_POINTER, _SLOTS, _POINTER, _POINTER, number, number, number, number), codegen


@intrinsic
def add_lanes(typingctx, terms, slots, totals):  # type: ignore[no-untyped-def]
    """Add the terms of sixteen edges to the four totals of their slots; slots may repeat."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        terms, slots, totals = arguments
        runs = [_run(builder, terms, at * TOGETHER) for at in range(4)]
        # Four by four, within each quarter of the lanes.
        quarters = range(0, TOGETHER, 4)
        low = [lane for q in quarters for lane in (q, q + TOGETHER, q + 1, q + TOGETHER + 1)]
        high = [lane + 2 for lane in low]
        first = [lane for q in quarters for lane in (q, q + 1, q + TOGETHER, q + TOGETHER + 1)]
        second = [lane + 2 for lane in first]
        pairs = [
            [builder.shuffle_vector(one, other, _places(places)) for one, other in (runs[:2], runs[2:])]
            for places in (low, high)
        ]
        by_edge = [builder.shuffle_vector(*pair, _places(places)) for pair in pairs for places in (first, second)]
        for lane in range(TOGETHER):
            four = by_edge[lane % 4]
            quarter = _places(range(lane - lane % 4, lane - lane % 4 + 4))
            mine = builder.shuffle_vector(four, four, quarter)
            slot = builder.zext(builder.load(builder.gep(slots, [_INT32(lane)])), ir.IntType(64))
            address = builder.gep(totals, [builder.shl(slot, ir.IntType(64)(2))])
            address = builder.bitcast(address, _FOUR.as_pointer())
            builder.store(builder.fadd(builder.load(address, align=16), mine), address, align=16)
        return context.get_dummy_value()

    return types.void(_POINTER, _SLOTS, _POINTER), codegen


@intrinsic
def bound_lanes(typingctx, totals, count, above, mean_above, best, mean_best, error, least, most, blank, kinds):  # type: ignore[no-untyped-def]
    """Bounds of the scores and means of sixteen slots, of which `count` are items'; their totals are 0 then.

    A score is the mean and from `least` to `most` times the width. Upper bounds are put to `above` and
    `mean_above`, lower ones to `best` and `mean_best` where they are better than what is there. `error` is what
    totals err by, as a share of what they are made of; `blank` is the mean of unseen edges. `kinds`: 1 where totals
    are of `centred_lanes`, and 2 where an unseen edge makes a score infinite.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        totals, count, above, mean_above, best, mean_best = arguments[:6]
        error, least, most, blank = (_spread(builder, value) for value in arguments[6:10])
        kinds = arguments[10]
        centred = builder.trunc(kinds, ir.IntType(1))
        infinite = builder.trunc(builder.lshr(kinds, kinds.type(1)), ir.IntType(1))
        mean, magnitude, square, slack = _totals(builder, totals)
        _put(builder, totals, *[_constant(0.0)] * 4)
        nothing, endless = _constant(0.0), _constant(float("inf"))
        unseen = builder.fcmp_ordered(">", magnitude, nothing)
        unseen = builder.select(infinite, unseen, ir.Constant(unseen.type, [0] * TOGETHER))
        believed = builder.fadd(mean, builder.fmul(blank, magnitude))
        mean = builder.select(centred, mean, believed)
        off = builder.fmul(error, builder.select(centred, magnitude, believed))
        low, high = builder.fsub(mean, off), builder.fadd(mean, off)
        slack = builder.fadd(builder.fmul(error, builder.fadd(square, slack)), _constant(_TINY))
        narrow = builder.fsub(square, slack)
        narrow = builder.select(builder.fcmp_ordered(">", narrow, nothing), narrow, nothing)
        root = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, ir.FunctionType(_LANES, [_LANES]), f"llvm.sqrt.v{TOGETHER}f32"
        )
        narrow = builder.call(root, [narrow])
        wide = builder.call(root, [builder.fadd(square, slack)])
        lowest = builder.select(unseen, endless, builder.fadd(low, builder.fmul(least, narrow)))
        highest = builder.select(unseen, endless, builder.fadd(high, builder.fmul(most, wide)))
        _put(builder, above, highest)
        _put(builder, mean_above, high)
        lanes = ir.Constant(ir.VectorType(_INT32, TOGETHER), list(range(TOGETHER)))
        item = builder.icmp_signed("<", lanes, _spread(builder, builder.trunc(count, _INT32)))
        for held, bound in ((best, lowest), (mean_best, low)):
            before = _run(builder, held, 0)
            better = builder.and_(item, builder.fcmp_ordered(">", bound, before))
            _put(builder, held, builder.select(better, bound, before))
        return context.get_dummy_value()

    floats = (types.float32,) * 4
    return types.void(*[_POINTER], types.int64, *[_POINTER] * 4, *floats, types.int64), codegen


def _constant(value: float) -> Any:
    return ir.Constant(_LANES, [ir.Constant(_FLOAT, value)] * TOGETHER)


def _places(places: Any) -> Any:
    numbers = list(places)
    return ir.Constant(ir.VectorType(_INT32, len(numbers)), numbers)


def _spread(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, TOGETHER), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, value, _INT32(0)), undefined, _places([0] * TOGETHER)
    )


def _run(builder: Any, start: Any, offset: int) -> Any:
    address = builder.gep(start, [ir.Constant(ir.IntType(64), offset)])
    return builder.load(builder.bitcast(address, _LANES.as_pointer()), align=4)


def _columns(builder: Any, rows: Any) -> Any:
    """The a, d and b of sixteen rows."""
    runs = [_run(builder, rows, at * TOGETHER) for at in range(3)]
    columns = []
    for column in range(3):
        wanted = [3 * lane + column for lane in range(TOGETHER)]
        of_two = [place if place < 2 * TOGETHER else 0 for place in wanted]
        merged = [lane if place < 2 * TOGETHER else place - TOGETHER for lane, place in enumerate(wanted)]
        two = builder.shuffle_vector(runs[0], runs[1], _places(of_two))
        columns.append(builder.shuffle_vector(two, runs[2], _places(merged)))
    return columns


def _totals(builder: Any, totals: Any) -> Any:
    """The four totals of sixteen slots."""
    runs = [_run(builder, totals, at * TOGETHER) for at in range(4)]
    columns = []
    for column in range(4):
        wanted = [4 * lane + column for lane in range(TOGETHER // 2)]
        halves = [builder.shuffle_vector(*pair, _places(wanted)) for pair in (runs[:2], runs[2:])]
        columns.append(builder.shuffle_vector(*halves, _places(range(TOGETHER))))
    return columns


def _put(builder: Any, terms: Any, *runs: Any) -> None:
    for at, run in enumerate(runs):
        address = builder.gep(terms, [ir.Constant(ir.IntType(64), at * TOGETHER)])
        builder.store(run, builder.bitcast(address, _LANES.as_pointer()), align=4)

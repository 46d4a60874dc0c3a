"""Compiled slates with slots reserved for draws from pools.

Invariants: the slate is that of `bandits.reserved_slots` bit for bit, propensities within rounding: sums of the
same terms, of which those that are 0 by their ranks are passed over. Nothing is checked here: 1 <= size <= n,
1 <= top_m <= n, no score is NaN.
"""

import math
import sys
from typing import Any

import numpy as np
from numba import njit

from bandits.draws import COARSE, COARSE_REDRAWS, EXPLORE_COIN, EXPLORE_ORDER, OPTIMISM_REDRAWS, RESERVED_SLOTS
from bandits.numba_cache import fingerprint
from bandits.numba_draws import coarse_word, key_bits, key_uniform, stream_key
from bandits.numba_inner import inner
from bandits.numba_scores import POLICY, RANDOMIZED, THOMPSON_MODE
from bandits.numba_slates import pick_slate
from bandits.policies import STEADY
from bandits.slate_propensity import EXPLORED_SLOTS
from bandits.slates_numba import FILLING

_QUARTER_BITS, _QUARTER_MASK = np.uint64(16), np.uint64(0xFFFF)
_THOMPSON_SCALE, _OPTIMISM = POLICY.index("thompson_scale"), POLICY.index("optimism")


@inner
def _fill(score, mean, spread, keys, of, shares, policy, quantiles, seed, size, top_m, redraws):  # type: ignore[no-untyped-def]
    """A slate of scored candidates: chosen (int64), propensity (float64), drawn (int8), of shape (size,) each.

    `spread` is the width by which scores are drawn again, 0 for candidates that are ranked by their mean; `of` is
    int8, `shares` float64 of shape (2,), both as of `bandits.reserved_slots.Pools`.
    """
    sizes = np.zeros(3, np.int64)
    for i in range(len(of)):
        sizes[of[i]] += 1
    cases = _cases(shares, sizes, min(size, EXPLORED_SLOTS))
    chosen, drawn = _draw(score, keys, of, shares, sizes, size, top_m, seed)
    propensity = np.zeros(size)
    pooled = np.flatnonzero(of > 0)
    _add_placement(score, of, pooled, sizes, chosen, top_m, cases, propensity)
    if policy[0] == THOMPSON_MODE or policy[0] == RANDOMIZED:
        _add_redraws(
            mean,
            spread,
            keys,
            of,
            pooled,
            sizes,
            policy,
            quantiles,
            seed,
            chosen,
            top_m,
            cases,
            redraws,
            propensity,
        )
        propensity /= redraws + 1
    return chosen, np.minimum(propensity, 1.0), drawn


@inner
def _draw(score, keys, of, shares, sizes, size, top_m, seed):  # type: ignore[no-untyped-def]
    """As `bandits.reserved_slots.draw_slate`."""
    n, open_slots = len(score), min(size, EXPLORED_SLOTS)
    offset, factor = stream_key(seed, RESERVED_SLOTS)
    slot_draws = np.empty(open_slots, np.uint64)
    for slot in range(open_slots):
        slot_draws[slot] = key_bits(offset, factor, np.uint64(slot))
    slots = np.argsort(slot_draws)
    offset, factor = stream_key(seed, EXPLORE_COIN)
    order_offset, order_factor = stream_key(seed, EXPLORE_ORDER)
    chosen, drawn, taken = np.full(size, -1, np.int64), np.zeros(size, np.int8), np.zeros(n, np.bool_)
    used = 0
    for pool in range(2):
        expected = shares[pool] * open_slots
        whole = math.floor(expected)
        count = np.int64(whole) + (key_uniform(offset, factor, np.uint64(pool)) < expected - whole)
        count = min(count, sizes[pool + 1], open_slots - used)
        if count == 0:
            continue
        members, draws = np.empty(sizes[pool + 1], np.int64), np.empty(sizes[pool + 1], np.uint64)
        at = 0
        for i in range(n):
            if of[i] == pool + 1:
                members[at], draws[at] = i, key_bits(order_offset, order_factor, keys[i])
                at += 1
        first = np.argsort(draws)
        for number in range(count):
            member = members[first[number]]
            chosen[slots[used]], drawn[slots[used]], taken[member] = member, pool + 1, True
            used += 1
    if used < size:
        kept = np.flatnonzero(~taken)
        left = size - used
        ranked, nothing, none = np.empty(left, np.int64), np.empty(left), np.empty(left, np.bool_)
        # Nothing is explored here: the tables behind exploration are not read.
        pick_slate(
            score[kept], keys[kept], left, min(top_m, len(kept)), 0.0, seed,
            np.zeros((0, 0)), np.zeros((0, 0)), ranked, nothing, none,
        )  # fmt: skip
        at = 0
        for slot in range(size):
            if chosen[slot] < 0:
                chosen[slot] = kept[ranked[at]]
                at += 1
    return chosen, drawn


@inner
def _cases(shares, sizes, open_slots):  # type: ignore[no-untyped-def]
    """Drawn from each pool, and the probability: as `possible_counts`, float64 of shape (cases, 3)."""
    cases, count = np.empty((4, 3)), 0
    for more1 in range(2):
        expected = shares[0] * open_slots
        part1 = expected - math.floor(expected)
        first = min(np.int64(math.floor(expected)) + more1, sizes[1], open_slots)
        for more2 in range(2):
            expected = shares[1] * open_slots
            part2 = expected - math.floor(expected)
            second = min(np.int64(math.floor(expected)) + more2, sizes[2], open_slots - first)
            p = (part1 if more1 else 1.0 - part1) * (part2 if more2 else 1.0 - part2)
            if p > 0.0:
                cases[count, 0], cases[count, 1], cases[count, 2] = first, second, p
                count += 1
    return cases[:count]


@inner
def _add_redraws(  # type: ignore[no-untyped-def]
    mean, spread, keys, of, pooled, sizes, policy, quantiles, seed, chosen, top_m, cases, redraws, propensity
):
    """Add placements under redraws of the scores, as `bandits.policies.redraw` makes them."""
    n = len(mean)
    randomized = policy[0] == RANDOMIZED
    scale, first_quantile = (policy[_OPTIMISM], COARSE) if randomized else (policy[_THOMPSON_SCALE], 0)
    offset, factor = stream_key(seed, OPTIMISM_REDRAWS if randomized else COARSE_REDRAWS)
    drawn = np.empty((4, n))
    for block in range((redraws + 3) // 4):
        for i in range(n):
            word = coarse_word(key_bits(offset, factor, keys[i]), block)
            for quarter in range(4):
                at = np.int64((word >> (_QUARTER_BITS * np.uint64(quarter))) & _QUARTER_MASK)
                draw = quantiles[first_quantile + at]
                if randomized:
                    draw = STEADY + (1.0 - STEADY) * draw
                fixed = scale == 0.0 or spread[i] == 0.0
                infinite = spread[i] == np.inf and scale != 0.0
                drawn[quarter, i] = (
                    np.inf if infinite else (mean[i] if fixed else mean[i] + scale * draw * spread[i])
                )
        for quarter in range(min(4, redraws - 4 * block)):
            _add_placement(drawn[quarter], of, pooled, sizes, chosen, top_m, cases, propensity)


@inner
def _add_placement(score, of, pooled, sizes, chosen, top_m, cases, propensity):  # type: ignore[no-untyped-def]
    """Add P(the slate has this candidate at this slot | the scores): `placement_reserved`; `pooled` have a pool."""
    n, size = len(score), len(chosen)
    open_slots = min(size, EXPLORED_SLOTS)
    most = 0
    for case in range(len(cases)):
        most = max(most, int(cases[case, 0] + cases[case, 1]))
    above, tied = np.empty(3, np.int64), np.empty(3, np.int64)
    for slot in range(size):
        item = chosen[slot]
        own, value = of[item], score[item]
        first, same = 0, 0
        for i in range(n):
            first += score[i] > value
            same += score[i] == value
        if slot < open_slots and own > 0:
            for case in range(len(cases)):
                propensity[slot] += cases[case, 2] * cases[case, own - 1] / (open_slots * sizes[own])
        within = top_m > 1 and first - most < top_m and slot - most < top_m
        if not within and (first - most > slot or first + same <= slot - most):
            continue  # so few are drawn that its rank cannot become that of the slot
        above[:], tied[:] = 0, 0
        if most > 0:
            for i in pooled:
                above[of[i]] += score[i] > value
                tied[of[i]] += score[i] == value
            tied[own] -= own > 0
        for case in range(len(cases)):
            propensity[slot] += _by_rank(
                slot, first, same, above, tied, own, sizes, np.int64(cases[case, 0]), np.int64(cases[case, 1]),
                cases[case, 2], open_slots, top_m, n,
            )  # fmt: skip


@inner
def _by_rank(slot, first, same, above, tied, own, sizes, count1, count2, p, open_slots, top_m, n):  # type: ignore[no-untyped-def]
    """P(one case, and the item lies in the slot by its rank)."""
    drawn = count1 + count2
    is_open = slot < open_slots
    if is_open and drawn >= open_slots:
        return 0.0
    undrawn = p * ((open_slots - drawn) / open_slots if is_open else 1.0)
    if own > 0:
        undrawn *= 1.0 - (count1 if own == 1 else count2) / sizes[own]
    if undrawn == 0.0:
        return 0.0
    m = min(top_m, n - drawn)
    total = 0.0
    for up1 in range(min(count1, above[1]) + 1):
        for beside1 in range(min(count1 - up1, tied[1]) + 1):
            chance1 = _hypergeometric(above[1], up1, tied[1], beside1, sizes[1] - (own == 1), count1)
            if chance1 == 0.0:
                continue
            for up2 in range(min(count2, above[2]) + 1):
                for beside2 in range(min(count2 - up2, tied[2]) + 1):
                    chance = chance1 * _hypergeometric(
                        above[2], up2, tied[2], beside2, sizes[2] - (own == 2), count2
                    )
                    if chance == 0.0:
                        continue
                    start, group = first - up1 - up2, same - beside1 - beside2
                    for before in range(drawn + 1) if is_open else range(drawn, drawn + 1):
                        placed = _at_rank(start, group, slot - before, m)
                        if placed > 0.0:
                            if is_open:
                                placed *= _taken(slot, before, open_slots, drawn)
                            total += chance * placed
    return undrawn * total


@inner
def _at_rank(first, tied, rank, top_m):  # type: ignore[no-untyped-def]
    if top_m <= 1:
        return 1.0 / tied if first <= rank < first + tied else 0.0
    inside = min(max(top_m - first, 0), tied)
    probability = inside / tied / top_m if 0 <= rank < top_m else 0.0
    if first + inside <= rank < first + tied:
        probability += 1.0 / tied
    return probability


@inner
def _taken(slot, before, open_slots, drawn):  # type: ignore[no-untyped-def]
    """P(so many of the drawn slots are before one that is not drawn)."""
    after = open_slots - 1 - slot
    if before > slot or drawn - before > after or before > drawn:
        return 0.0
    if drawn == 0:
        return 1.0
    return math.exp(
        _log_choose(slot, before) + _log_choose(after, drawn - before) - _log_choose(open_slots - 1, drawn)
    )


@inner
def _hypergeometric(above, up, tied, beside, others, count):  # type: ignore[no-untyped-def]
    """P(of `count` drawn among `others`, so many are above and so many beside an item)."""
    below = others - above - tied
    rest = count - up - beside
    if up > above or beside > tied or rest < 0 or rest > below:
        return 0.0
    if count == 0:
        return 1.0
    return math.exp(
        _log_choose(above, up) + _log_choose(tied, beside) + _log_choose(below, rest) - _log_choose(others, count)
    )


@inner
def _log_choose(members, drawn):  # type: ignore[no-untyped-def]
    if drawn == 0:
        return 0.0
    return math.lgamma(members + 1.0) - math.lgamma(drawn + 1.0) - math.lgamma(members - drawn + 1.0)


def _entry(sources: int) -> Any:
    """`_fill` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def fill_reserved(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return _fill(*arguments)

    return fill_reserved


fill_reserved = _entry(fingerprint(*FILLING, sys.modules[__name__]))

"""Ranks of candidates whose scores are drawn independently of each other: integrated, not simulated.

A candidate has rank r where exactly r others score above it. Given its score x, how many others do is a sum of
independent coins of P(score > x) each, a Poisson binomial; its distribution is integrated over x. The points x are
quantiles of the laws of those candidates that are near the slate: between two of them nothing moves far.

Invariant: as `bandits.drawn_ranks`, which says it in NumPy, up to the rounding of sums. Nothing is checked here.
"""

import math

import numpy as np
from numba import njit

from bandits.drawn_ranks import (
    COLLAPSED,
    CROWD,
    FLOOR_SAMPLE,
    HIGHEST_NORMAL,
    HIGHEST_ROOT,
    MORE_NODES,
    MOST_NODES,
    MOST_QUANTILES,
    NORMAL_QUANTILES,
    ROOT_QUANTILES,
    SAMPLED,
    SMALL_CHANCE,
)
from bandits.numba_inner import inner
from bandits.numba_lanes import LEAST, TOGETHER, add_product_lanes, count_lanes, drop_lanes
from bandits.numba_memory import advance, pointer

_HALVINGS = 8
_F = np.float32
_POWERS = 5  # exp(-y) = exp(-y / 2^5) squared five times


@inner(error_model="numpy")
def drawn_ranks(base, scale, normal, chosen, depth, wanted, ranks):  # type: ignore[no-untyped-def]
    """P(chosen[at] has rank r) for r < depth into `ranks`, float64 of shape (chosen, depth).

    A candidate scores base + scale * T; `normal` says whether T is a standard normal draw, or the root of a
    standard exponential one. Only rank wanted[at] of each is filled where that is not -1.
    """
    low, high = (-HIGHEST_NORMAL, HIGHEST_NORMAL) if normal else (0.0, HIGHEST_ROOT)
    ranks[:, :] = 0.0
    is_chosen = np.zeros(len(base), np.bool_)
    for at in range(len(chosen)):
        is_chosen[chosen[at]] = True
    floor = _likely_floor(base, scale, normal, high, _sure_floor(base, scale, low, depth), depth)
    rivals, strong, crowd, weak, expected = _rivals(base, scale, normal, high, floor, is_chosen)
    nodes = _nodes(base, scale, normal, chosen, rivals, floor, low, high)
    n_nodes = len(nodes)
    counts, above = np.full((n_nodes // TOGETHER, depth, TOGETHER), LEAST), np.empty(n_nodes, np.float32)
    counts[:, 0] = 1.0
    if weak:
        _count_crowd(counts, nodes, base, scale, normal, high, crowd[:weak], expected, above)
    for at in range(strong):
        i = rivals[at]
        end = _tails(nodes, base[i], scale[i], normal, high, above)
        _count_in(pointer(counts), depth, pointer(above), end)
    _leave_one_out(counts, nodes, base, scale, normal, high, chosen, rivals[:strong], wanted, ranks)


@inner(error_model="numpy")
def _rivals(base, scale, normal, high, floor, is_chosen):  # type: ignore[no-untyped-def]
    """Who may get in the way: the likely ones and how many; the others and how many, and how many are expected."""
    likely, crowd = np.empty(len(base) + 1, np.int64), np.empty(len(base) + 1, np.int64)
    strong, weak, expected = 0, 0, 0.0
    for i in range(len(base)):
        if is_chosen[i] or base[i] + high * scale[i] < floor:
            continue
        t = np.float32((floor - base[i]) / max(scale[i], COLLAPSED))
        chance = _normal_tail(t) if normal else _root_tail(t)
        is_weak = chance < SMALL_CHANCE and not _is_point(base[i], scale[i])
        likely[strong], crowd[weak] = i, i  # overwritten unless counted: no branch
        strong, weak = strong + (not is_weak), weak + is_weak
        expected += chance * is_weak
    if weak < CROWD:
        for at in range(weak):  # assigned whole, its check of shapes takes seconds to compile
            likely[strong + at] = crowd[at]
        strong, weak = strong + weak, 0
    return likely[:strong], strong, crowd, weak, expected


@inner(error_model="numpy")
def _count_crowd(counts, nodes, base, scale, normal, high, crowd, expected, above):  # type: ignore[no-untyped-def]
    """Start with many of small chances: their number follows Poisson's law, its mean that of a sample of them."""
    step = max(1, len(crowd) // SAMPLED)
    total = np.zeros(len(nodes))
    for at in range(0, len(crowd), step):
        i = crowd[at]
        end = _tails(nodes, base[i], scale[i], normal, high, above)
        for q in range(end):
            total[q] += above[q]
    for q in range(len(nodes)):
        mean = expected * total[q] / max(total[0], 1e-30)
        block, lane = divmod(q, TOGETHER)
        term = math.exp(-mean)
        for k in range(counts.shape[1]):
            counts[block, k, lane] = max(np.float32(term), LEAST)
            term *= mean / (k + 1)


@inner(error_model="numpy")
def _sure_floor(base, scale, low, depth):  # type: ignore[no-untyped-def]
    """Below this score at least `depth` others are surely above."""
    size = depth + 1
    best, count = np.empty(size), 0
    for i in range(len(base)):
        value = base[i] + low * scale[i]
        if count == size and value <= best[size - 1]:
            continue
        at = count if count < size else size - 1
        while at > 0 and best[at - 1] < value:
            best[at] = best[at - 1]
            at -= 1
        best[at] = value
        count = min(count + 1, size)
    return best[size - 1] if count == size else -np.inf


@inner(error_model="numpy")
def _likely_floor(base, scale, normal, high, floor, depth):  # type: ignore[no-untyped-def]
    """Below this score at least `depth` others are above but for 1 in 10,000 draws, by their expected number."""
    enough = depth + 4.5 * math.sqrt(depth) + 4.0
    reaching, top, count = np.empty(len(base) + 1, np.int64), floor, 0
    for i in range(len(base)):
        end = base[i] + high * scale[i]
        reaching[count] = i  # overwritten unless counted: no branch
        count += end >= floor
        top = max(top, end)
    if count <= enough or floor == -np.inf:
        return floor
    step = max(1, count // FLOOR_SAMPLE)
    size = (count + step - 1) // step
    place, inverse = np.empty(size), np.empty(size)
    for at in range(size):
        i = reaching[at * step]
        place[at], inverse[at] = base[i], 1.0 / max(scale[i], COLLAPSED)
    # Of a sample a little more than enough is asked for, as its mean errs.
    enough = (enough + (3.0 * math.sqrt(enough * step) if step > 1 else 0.0)) * size / count
    low = floor
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + top)
        if _expected_above(middle, place, inverse, normal) >= enough:
            low = middle
        else:
            top = middle
    return low


@inner(error_model="numpy", fastmath={"reassoc"})
def _expected_above(x, place, inverse, normal):  # type: ignore[no-untyped-def]
    total = 0.0
    if normal:
        for i in range(len(place)):
            total += _normal_tail(np.float32((x - place[i]) * inverse[i]))
    else:
        for i in range(len(place)):
            total += _root_tail(np.float32((x - place[i]) * inverse[i]))
    return total


@inner
def _is_point(base, scale):  # type: ignore[no-untyped-def]
    return scale <= COLLAPSED * abs(base)


@inner(error_model="numpy")
def _nodes(base, scale, normal, chosen, rivals, floor, low, high):  # type: ignore[no-untyped-def]
    """Where scores are looked at, ascending and distinct."""
    middle = 0.0 if normal else 0.8
    size = len(chosen) // 2 + MORE_NODES
    next_best, held, count = np.empty(size, np.int64), np.empty(size), 0
    for at_rival in range(len(rivals)):
        i = rivals[at_rival]
        value = base[i] + middle * scale[i]
        if count == size and value <= held[size - 1]:
            continue
        at = count if count < size else size - 1
        while at > 0 and held[at - 1] < value:
            held[at], next_best[at] = held[at - 1], next_best[at - 1]
            at -= 1
        held[at], next_best[at] = value, i
        count = min(count + 1, size)
    items = len(chosen) + count
    per_item = max(2, min(MOST_QUANTILES, (MOST_NODES - 2) // items))
    table = NORMAL_QUANTILES[per_item] if normal else ROOT_QUANTILES[per_item]
    nodes = np.empty(_whole(max(items * per_item + 2, 2 * MOST_NODES)))
    n_nodes, lowest, highest = 0, np.inf, -np.inf
    for at in range(items):
        i = chosen[at] if at < len(chosen) else next_best[at - len(chosen)]
        if _is_point(base[i], scale[i]):
            nodes[n_nodes], nodes[n_nodes + 1] = np.nextafter(base[i], -np.inf), base[i]
            n_nodes += 2
            continue
        for one in range(per_item):
            nodes[n_nodes] = base[i] + scale[i] * table[one]
            n_nodes += 1
        if at < len(chosen):
            lowest, highest = min(lowest, base[i] + low * scale[i]), max(highest, base[i] + high * scale[i])
    if highest > -np.inf:
        nodes[n_nodes], nodes[n_nodes + 1] = lowest, highest
        n_nodes += 2
    n_nodes = _distinct(nodes, n_nodes, floor)
    while n_nodes <= MOST_NODES // 2 and n_nodes > 1:  # equal laws have equal quantiles: look between them
        for at in range(n_nodes - 1):
            nodes[n_nodes + at] = 0.5 * (nodes[at] + nodes[at + 1])
        before = n_nodes
        n_nodes = _distinct(nodes, 2 * n_nodes - 1, floor)
        if n_nodes == before:
            break
    nodes[n_nodes : _whole(n_nodes)] = nodes[n_nodes - 1]
    return nodes[: _whole(n_nodes)]


@inner
def _distinct(nodes, count, floor):  # type: ignore[no-untyped-def]
    """Sort and keep one of each, in place; how many."""
    for at in range(count):
        nodes[at] = max(nodes[at], floor)
    nodes[:count].sort()
    kept = 1
    for at in range(1, count):
        nodes[kept] = nodes[at]
        kept += nodes[at] > nodes[kept - 1]
    return kept


@njit(error_model="numpy", inline="always")
def _exp_of_minus(y):  # type: ignore[no-untyped-def]
    """exp(-y), 0 <= y <= 18, to 1e-6 of itself; without a call, so that loops over it become vector code."""
    z = y * _F(-1.0 / (1 << _POWERS))
    p = _F(1.0) + z * _F(1.0 / 6.0)
    p = _F(1.0) + z * _F(1.0 / 5.0) * p
    p = _F(1.0) + z * _F(1.0 / 4.0) * p
    p = _F(1.0) + z * _F(1.0 / 3.0) * p
    p = _F(1.0) + z * _F(1.0 / 2.0) * p
    p = _F(1.0) + z * p
    for _ in range(_POWERS):
        p *= p
    return p


@njit(error_model="numpy", inline="always")
def _normal_tail(t):  # type: ignore[no-untyped-def]
    """P(T > t) of a standard normal draw: Abramowitz and Stegun 26.2.17, |error| < 7.5e-8."""
    s = min(abs(t), _F(6.0))
    k = _F(1.0) / (_F(1.0) + _F(0.2316419) * s)
    p = k * (_F(-1.821255978) + k * _F(1.330274429))
    p = k * (_F(0.319381530) + k * (_F(-0.356563782) + k * (_F(1.781477937) + p)))
    upper = _F(0.3989422804014327) * _exp_of_minus(_F(0.5) * s * s) * p
    return upper if t > _F(0.0) else _F(1.0) - upper


@njit(error_model="numpy", inline="always")
def _root_tail(t):  # type: ignore[no-untyped-def]
    s = min(max(t, _F(0.0)), _F(4.0))
    return _exp_of_minus(s * s)


@inner(error_model="numpy")
def _normal_tails(nodes, base, inverse, above):  # type: ignore[no-untyped-def]
    for q in range(len(nodes)):
        above[q] = _normal_tail(np.float32((nodes[q] - base) * inverse))


@inner(error_model="numpy")
def _root_tails(nodes, base, inverse, above):  # type: ignore[no-untyped-def]
    for q in range(len(nodes)):
        above[q] = _root_tail(np.float32((nodes[q] - base) * inverse))


@inner(error_model="numpy")
def _tails(nodes, base, scale, normal, high, above):  # type: ignore[no-untyped-def]
    """P(score > node) into `above`, up to the node that is returned; from there on it is 0."""
    if _is_point(base, scale):
        at = np.searchsorted(nodes, base)
        end = _whole(at)
        above[:at] = 1.0
        above[at:end] = 0.0
        return end
    end = _whole(np.searchsorted(nodes, base + high * scale))
    if normal:
        _normal_tails(nodes[:end], base, 1.0 / scale, above[:end])
    else:
        _root_tails(nodes[:end], base, 1.0 / scale, above[:end])
    return end


@inner
def _whole(count):  # type: ignore[no-untyped-def]
    """Up to the next whole vectors, as what is left of a vectorised loop costs as much as all of it."""
    return (count + TOGETHER - 1) & -TOGETHER


@inner(error_model="numpy")
def _count_in(counts, depth, above, end):  # type: ignore[no-untyped-def]
    """One more coin: counts[block, k, q] is P(k of the others are above node q of the block). Pointers."""
    for block in range(0, end, TOGETHER):
        coin, rows = advance(above, block), advance(counts, block * depth)
        for k in range(depth - 1, 0, -1):
            count_lanes(advance(rows, k * TOGETHER), coin)
        drop_lanes(rows, coin)


@inner(error_model="numpy")
def _leave_one_out(counts, nodes, base, scale, normal, high, chosen, rivals, wanted, ranks):  # type: ignore[no-untyped-def]
    """Integrate over each chosen candidate's own law, among the rivals and the other chosen ones."""
    size, n_nodes, depth = len(chosen), len(nodes), counts.shape[1]
    above, ends = np.zeros((size, n_nodes), np.float32), np.empty(size, np.int64)
    before = np.empty((size, *counts.shape), np.float32)
    for slot in range(size):
        j = chosen[slot]
        for block in range(len(counts)):
            for k in range(depth):
                for q in range(TOGETHER):
                    before[slot, block, k, q] = counts[block, k, q]
        ends[slot] = _tails(nodes, base[j], scale[j], normal, high, above[slot])
        _count_in(pointer(counts), depth, pointer(above[slot]), ends[slot])
    after = np.full(counts.shape, LEAST)
    after[:, 0] = 1.0
    given = np.empty(n_nodes, np.float32)
    one, other, total = pointer(before), pointer(after), pointer(given)
    for slot in range(size - 1, -1, -1):
        j = chosen[slot]
        first, end = (0, depth) if wanted[slot] < 0 else (wanted[slot], wanted[slot] + 1)
        for rank in range(first, end):
            if _is_point(base[j], scale[j]):
                equals = _equals(base, scale, j, chosen, rivals)
                ranks[slot, rank] = _of_point(before[slot], after, np.searchsorted(nodes, base[j]), rank, equals)
                continue
            given[:] = 0.0
            for block in range(0, n_nodes, TOGETHER):
                to, left = advance(total, block), advance(one, slot * depth * n_nodes + block * depth)
                right = advance(other, block * depth)
                for k in range(rank + 1):
                    add_product_lanes(to, advance(left, k * TOGETHER), advance(right, (rank - k) * TOGETHER))
            ranks[slot, rank] = _integral(above[slot], given)
        _count_in(pointer(after), depth, pointer(above[slot]), ends[slot])


@inner(error_model="numpy", fastmath={"reassoc"})
def _integral(above, given):  # type: ignore[no-untyped-def]
    """Integral of `given` over the law whose tail is `above`, by trapezoids."""
    total = 0.0
    for q in range(len(above) - 1):
        total += (above[q] - above[q + 1]) * (given[q] + given[q + 1])
    return 0.5 * total


@inner
def _equals(base, scale, j, chosen, rivals):  # type: ignore[no-untyped-def]
    """How many others are the same point."""
    count = -1
    for among in (chosen, rivals):
        for at in range(len(among)):
            i = among[at]
            count += base[i] == base[j] and _is_point(base[i], scale[i])
    return count


@inner
def _of_point(before, after, node, rank, equals):  # type: ignore[no-untyped-def]
    """P(rank) of a candidate whose score is not random but at a node; its equals are in random order."""
    block, q = divmod(node, TOGETHER)
    if block >= len(before):
        return 0.0
    total = 0.0
    for above in range(max(rank - equals, 0), rank + 1):
        for k in range(above + 1):
            total += before[block, k, q] * after[block, above - k, q]
    return total / (equals + 1)

"""Compiled picking of a slate, with exact propensities.

Invariant: equal to `bandits.slates.pick` bit for bit: the same slate, the same propensities, the same draws.
Nothing is checked here: 1 <= size <= n, 1 <= top_m <= n, no score is NaN.
"""

import numpy as np

from bandits.draws import EXPLORE_COIN, EXPLORE_ORDER, TIES, TOP_M
from bandits.numba_addresses import address_of, uint64_at
from bandits.numba_draws import key_bits, key_uniform, stream_key
from bandits.numba_inner import inner
from bandits.numba_memory import load
from bandits.slate_propensity import EXPLORED_SLOTS

_COUNTED = 256  # candidates among whom it is faster to count the better ones for each slot than to rank them
_SIGN, _NEGATIVE = np.uint64(63), np.uint64(1 << 63)
_FEW = 48  # ranks up to which the best are kept in order one by one; beyond, all are sorted


@inner
def pick_slate(score, keys, size, top_m, share, seed, head, band, chosen, propensity, explored):  # type: ignore[no-untyped-def]
    """Pick a slate into the arrays chosen, propensity and explored, of `size` each.

    `head` and `band` are of `bandits.slate_propensity.RankTable`, and not read where the exploration share is 0.
    """
    depth = max(size, top_m)
    order = _best(score, keys, depth, seed) if depth <= _FEW else _sorted(score, keys, seed)
    ranked = score[order]
    if top_m > 1:
        _permute(order, keys, top_m, seed)
    if share > 0.0:
        _fill(order, keys, size, share, seed, chosen, explored)
    else:
        for slot in range(size):
            chosen[slot], explored[slot] = order[slot], False
    if top_m <= 1 and share == 0.0 and _stand_alone(score, ranked, size):
        propensity[:size] = 1.0
        return
    first, end = -1, -1
    last = np.nan
    for slot in range(size):
        value = score[chosen[slot]]
        if value != last:
            first, end = _group(score, ranked, value)
            last = value
        propensity[slot] = position_probability(first, end, slot, len(score), size, top_m, share, head, band)


@inner
def _stand_alone(score, ranked, size):  # type: ignore[no-untyped-def]
    """Whether no candidate of the first `size` ranks shares its score with another one."""
    alone, last, equal = True, ranked[size - 1], 0
    for rank in range(1, size):
        alone &= ranked[rank - 1] != ranked[rank]
    if alone:
        for i in range(len(score)):
            equal += score[i] == last
    return equal == 1


@inner
def _group(score, ranked, value):  # type: ignore[no-untyped-def]
    """First rank and end of the candidates whose score is `value`; `ranked` holds the best scores, best first."""
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) >> 1
        if ranked[middle] > value:
            low = middle + 1
        else:
            high = middle
    if low == len(ranked) or ranked[low] != value or (ranked[-1] == value and len(ranked) < len(score)):
        return tie_group(score, value)  # some of them are behind the best
    end = low + 1
    while end < len(ranked) and ranked[end] == value:
        end += 1
    return low, end


@inner
def tie_group(score, value):  # type: ignore[no-untyped-def]
    """First rank and end of the candidates whose score is `value`."""
    above, equal = 0, 0
    for i in range(len(score)):
        above += score[i] > value
        equal += score[i] == value
    return above, above + equal


@inner
def position_probability(first, end, slot, n, size, top_m, share, head, band):  # type: ignore[no-untyped-def]
    """As `bandits.slate_propensity.position_probabilities`, of one item."""
    if top_m <= 1:
        return min(_mean_over_ranks(first, end, slot, size, share, head, band), 1.0)
    inside = min(max(top_m - first, 0), end - first)
    within = _mean_over_ranks(0, top_m, slot, size, share, head, band)
    beyond = _mean_over_ranks(first + inside, end, slot, size, share, head, band)
    part = inside / (end - first)
    return min(part * within + (1 - part) * beyond, 1.0)


@inner
def _mean_over_ranks(low, high, slot, size, share, head, band):  # type: ignore[no-untyped-def]
    total = 0.0
    if share == 0.0:
        total = 1.0 if low <= slot < high else 0.0
    elif slot < len(head):
        for rank in range(low, min(high, size)):
            total += head[slot, rank]
        total += max(high - max(low, size), 0) * head[slot, size]
    else:
        start = slot - len(head)
        for rank in range(max(low, start), min(high, start + band.shape[1])):
            total += band[start, rank - start]
    return total / max(high - low, 1)


@inner
def _best(score, keys, depth, seed):  # type: ignore[no-untyped-def]
    """The best `depth` candidates in order, ties by their draw."""
    offset, factor = stream_key(seed, TIES)
    order = np.empty(depth, np.int64)
    held, draws = np.empty(depth), np.empty(depth, np.uint64)
    count, worst = 0, -np.inf
    for i in range(len(score)):
        value = score[i]
        if count == depth and value < worst:
            continue
        draw = key_bits(offset, factor, keys[i])
        at = count if count < depth else depth - 1
        if count == depth and (value == worst and draw >= draws[at]):
            continue
        while at > 0 and (held[at - 1] < value or (held[at - 1] == value and draws[at - 1] > draw)):
            held[at], draws[at], order[at] = held[at - 1], draws[at - 1], order[at - 1]
            at -= 1
        held[at], draws[at], order[at] = value, draw, i
        count = min(count + 1, depth)
        worst = held[count - 1]
    return order


@inner
def _sorted(score, keys, seed):  # type: ignore[no-untyped-def]
    """All candidates in order, ties by their draw."""
    offset, factor = stream_key(seed, TIES)
    order = _ascending(_lower_bits_of_higher(score))
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order) and score[order[end]] == score[order[start]]:
            continue
        if end - start > 1:
            _sort_by_draw(order[start:end], keys, offset, factor)
        start = end
    return order


@inner
def _lower_bits_of_higher(values):  # type: ignore[no-untyped-def]
    """Numbers that are in order as bits, uint64, where the values are in the opposite one."""
    bits, made = uint64_at(address_of(values)), np.empty(len(values), np.uint64)
    for at in range(len(values)):
        word = load(bits, at)
        made[at] = word if word >> _SIGN else ~(word | _NEGATIVE)
    return made


@inner
def _ascending(keys):  # type: ignore[no-untyped-def]
    """The order of uint64 keys, lowest first, by merging; NumPy's sort takes seconds to compile for each type."""
    n, width = len(keys), 1
    order, merged = np.empty(n, np.int64), np.empty(n, np.int64)
    for at in range(n):
        order[at] = at
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            left, right = start, middle
            for at in range(start, end):
                if left < middle and (right >= end or keys[order[left]] <= keys[order[right]]):
                    merged[at] = order[left]
                    left += 1
                else:
                    merged[at] = order[right]
                    right += 1
        order, merged = merged, order
        width *= 2
    return order


@inner
def mark_beyond_means(mean, chosen, explored):  # type: ignore[no-untyped-def]
    """Mark those that the mean alone would not have put in the slate (`bandits.slates.beyond_means`)."""
    size = len(chosen)
    if len(mean) <= _COUNTED:
        for slot in range(size):
            better, value = 0, mean[chosen[slot]]
            for i in range(len(mean)):
                better += mean[i] > value
            explored[slot] = explored[slot] or better >= size
        return
    if size <= _FEW:
        best, count = np.empty(size), 0
        for i in range(len(mean)):
            value = mean[i]
            if count == size and value <= best[size - 1]:
                continue
            at = count if count < size else size - 1
            while at > 0 and best[at - 1] < value:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
            count = min(count + 1, size)
        last = best[size - 1]
    else:
        last = mean[_ascending(_lower_bits_of_higher(mean))[size - 1]]
    for slot in range(size):
        explored[slot] = explored[slot] or mean[chosen[slot]] < last


@inner
def _permute(order, keys, top_m, seed):  # type: ignore[no-untyped-def]
    offset, factor = stream_key(seed, TOP_M)
    _sort_by_draw(order[:top_m], keys, offset, factor)


@inner
def _sort_by_draw(order, keys, offset, factor):  # type: ignore[no-untyped-def]
    """Sort some candidates by their draws, in place."""
    draws = np.empty(len(order), np.uint64)
    for at in range(len(order)):
        draws[at] = key_bits(offset, factor, keys[order[at]])
    if len(order) > _FEW:
        ranked = order[_ascending(draws)]
        for at in range(len(order)):  # assigned whole, its check of shapes takes seconds to compile
            order[at] = ranked[at]
        return
    for at in range(1, len(order)):
        draw, candidate = draws[at], order[at]
        while at > 0 and draws[at - 1] > draw:
            draws[at], order[at] = draws[at - 1], order[at - 1]
            at -= 1
        draws[at], order[at] = draw, candidate


@inner
def _fill(order, keys, size, share, seed, chosen, explored):  # type: ignore[no-untyped-def]
    """Merge the queue of ranks with the queue of one random order, slot by slot (`bandits.slates._fill`)."""
    n, slots = len(keys), min(size, EXPLORED_SLOTS)
    offset, factor = stream_key(seed, EXPLORE_COIN)
    any_explored = False
    for slot in range(size):
        explored[slot] = slot < slots and key_uniform(offset, factor, np.uint64(slot)) < share
        any_explored = any_explored or explored[slot]
    if not any_explored:
        for slot in range(size):
            chosen[slot] = order[slot]
        return
    offset, factor = stream_key(seed, EXPLORE_ORDER)
    draws = np.empty(n, np.uint64)
    for i in range(n):
        draws[i] = key_bits(offset, factor, keys[i])
    taken = np.zeros(n, np.bool_)
    rank = 0
    for slot in range(size):
        if explored[slot]:
            candidate = _next_drawn(draws, taken)
        else:
            while taken[order[rank]]:
                rank += 1
            candidate = order[rank]
        taken[candidate] = True
        chosen[slot] = candidate


@inner
def _next_drawn(draws, taken):  # type: ignore[no-untyped-def]
    """The untaken candidate of the smallest draw."""
    best, least = -1, np.uint64(0)
    for i in range(len(draws)):
        if not taken[i] and (best < 0 or draws[i] < least):
            best, least = i, draws[i]
    return best

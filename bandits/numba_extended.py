"""Compiled loop for facts that open or close impressions, that were seen at a position, or that are forgotten.

Invariant: equal to `bandits.extended_facts` bit for bit. Arrays are contiguous; item numbers are within the graph.
"""

import numpy as np
from numba import njit

from bandits.forgetting import BLOCK_HALF_LIVES, BLOCK_STEPS, STEPS, WEIGHT_BITS, WEIGHT_UNIT, WEIGHTS
from bandits.sums import (
    EXCESS,
    HALF_LIFE,
    LARGEST,
    LATEST,
    OPEN,
    PAST_A,
    PAST_EXCESS,
    UNIT,
    UNIT_BITS,
)

_NEWEST, _PAST, _FORGOTTEN = 0, 1, 2


@njit(cache=True, nogil=True)
def add_extended_facts(  # type: ignore[no-untyped-def]
    item_ptr,
    edge_cluster,
    edge_sums,
    item_sums,
    extra,
    times,
    item,
    context,
    impressions,
    reward,
    opening,
    gamma,
    shown_ms,
    half_life_ms,
    context_ptr,
    cluster,
    context_x,
):
    """Add a micro-batch in place; how many sums it left at the largest value."""
    saturated = 0
    for fact in range(len(item)):
        j, shown, earned, step = item[fact], impressions[fact], reward[fact], opening[fact]
        saturated += _add(item_sums, j, 0, shown) + _add(item_sums, j, 1, earned)
        block, weight = _NEWEST, WEIGHT_UNIT
        if half_life_ms[fact] > 0 and (shown > 0 or earned > 0):
            start, stop = item_ptr[j], item_ptr[j + 1]
            block, weight = _advance(edge_sums, extra, times, j, start, stop, shown_ms[fact], half_life_ms[fact])
        forgets = half_life_ms[fact] > 0
        for at in range(context_ptr[context[fact]], context_ptr[context[fact] + 1]):
            edge = _find(edge_cluster, item_ptr[j], item_ptr[j + 1], cluster[at])
            if edge < 0:
                continue
            w = context_x[at]
            x = w if gamma[fact] == UNIT else max((gamma[fact] * w + (UNIT >> 1)) >> UNIT_BITS, 1)
            extra[edge, OPEN] += step * x * x
            if block == _FORGOTTEN:
                continue
            table, first, excess = edge_sums, 0, EXCESS
            if block == _PAST:
                table, first, excess = extra, PAST_A, PAST_EXCESS
            amounts = (x * shown, x * x * shown, x * earned, (w - x) * earned)
            for column in range(3):
                amount = _weighed(amounts[column], weight) if forgets else amounts[column]
                saturated += _add(table, edge, first + column, amount)
            amount = _weighed(amounts[3], weight) if forgets else amounts[3]
            saturated += _add(extra, edge, excess, amount)
    return saturated


@njit
def _find(edge_cluster, low, stop, cluster):  # type: ignore[no-untyped-def]
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if edge_cluster[middle] < cluster:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and edge_cluster[low] == cluster else -1


@njit
def _add(table, row, column, amount):  # type: ignore[no-untyped-def]
    """Add a number >= 0, stopping at the largest value; whether it stopped there."""
    added = table[row, column] + amount
    wrapped = added < table[row, column]
    table[row, column] = LARGEST if wrapped else added
    return np.int64(wrapped)


@njit
def _advance(edge_sums, extra, times, item, start, stop, shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    """Bring a row to the block of a fact; which block of the row the fact belongs to, and its weight."""
    if times[item, HALF_LIFE] != half_life_ms:
        if times[item, HALF_LIFE] == 0:
            times[item, LATEST] = shown_ms
        else:
            before = _weight(times[item, LATEST], times[item, HALF_LIFE])
            _rebase(edge_sums, extra, start, stop, before, _weight(times[item, LATEST], half_life_ms))
        times[item, HALF_LIFE] = half_life_ms
    block, newest = _block(shown_ms, half_life_ms), _block(times[item, LATEST], half_life_ms)
    if block > newest:
        for edge in range(start, stop):
            for column in range(3):
                extra[edge, PAST_A + column] = edge_sums[edge, column] if block == newest + 1 else 0
                edge_sums[edge, column] = 0
            extra[edge, PAST_EXCESS] = extra[edge, EXCESS] if block == newest + 1 else 0
            extra[edge, EXCESS] = 0
        newest = block
    times[item, LATEST] = max(times[item, LATEST], shown_ms)
    return min(newest - block, _FORGOTTEN), _weight(shown_ms, half_life_ms)


@njit
def _rebase(edge_sums, extra, start, stop, before, after):  # type: ignore[no-untyped-def]
    for edge in range(start, stop):
        for column in range(3):
            edge_sums[edge, column] = _rebased(edge_sums[edge, column], extra[edge, PAST_A + column], before, after)
            extra[edge, PAST_A + column] = 0
        extra[edge, EXCESS] = _rebased(extra[edge, EXCESS], extra[edge, PAST_EXCESS], before, after)
        extra[edge, PAST_EXCESS] = 0


@njit
def _rebased(newest, past, before, after):  # type: ignore[no-untyped-def]
    total = newest + (past >> BLOCK_HALF_LIVES)
    whole = total // before
    if whole >= LARGEST >> (WEIGHT_BITS + 1):
        return LARGEST
    return whole * after + total % before * after // before


@njit
def _block(shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    return shown_ms * STEPS // half_life_ms // BLOCK_STEPS


@njit
def _weight(shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    before_end = BLOCK_STEPS - 1 - shown_ms * STEPS // half_life_ms % BLOCK_STEPS
    return WEIGHTS[before_end % STEPS] >> (before_end // STEPS)


@njit
def _weighed(amount, weight):  # type: ignore[no-untyped-def]
    product = (amount * weight + (WEIGHT_UNIT >> 1)) >> WEIGHT_BITS
    return max(product, np.int64(amount > 0))

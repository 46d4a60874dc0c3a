"""Compiled loop for facts that open or close impressions, that were seen at a position, or that are forgotten.

Invariant: equal to `bandits.extended_facts` bit for bit. Arrays are contiguous; item numbers are within the graph.
As in `bandits.numba_kernels`, what is needed next is asked for while the present is worked on, by blocks of facts.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bandits import numba_kernels, numba_memory
from bandits.forgetting import BLOCK_HALF_LIVES, BLOCK_STEPS, STEPS, WEIGHT_BITS, WEIGHT_UNIT, WEIGHTS
from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_kernels import _ask_for_edges, _ask_for_row, _edges_of
from bandits.numba_memory import advance, load, pointer, prefetch, store
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
_BLOCK = 8  # facts from one stage to the next
_EXTRA = 6  # columns of `Sums.extra`


class _Tables(NamedTuple):
    """Sums and the rows of the graph, as pointers."""

    rows: Any
    row: Any
    n_edges: Any
    edge: Any
    item: Any
    extra: Any
    times: Any


class _Facts(NamedTuple):
    """Columns of facts and of their contexts, as pointers."""

    item: Any
    context: Any
    impressions: Any
    reward: Any
    opening: Any
    gamma: Any
    shown_ms: Any
    half_life_ms: Any
    ends: Any
    cluster: Any
    x: Any


@njit(inline="always")
def _add(table, at, amount):  # type: ignore[no-untyped-def]
    """Add a number >= 0, stopping at the largest value; whether it stopped there."""
    before = load(table, at)
    added = before + amount
    wrapped = added < before
    store(table, at, LARGEST if wrapped else added)
    return np.int64(wrapped)


@inner
def _block(shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    return shown_ms * STEPS // half_life_ms // BLOCK_STEPS


@inner
def _weight(shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    before_end = BLOCK_STEPS - 1 - shown_ms * STEPS // half_life_ms % BLOCK_STEPS
    return WEIGHTS[before_end % STEPS] >> (before_end // STEPS)


@inner
def _weighed(amount, weight):  # type: ignore[no-untyped-def]
    product = (amount * weight + (WEIGHT_UNIT >> 1)) >> WEIGHT_BITS
    return max(product, np.int64(amount > 0))


@inner
def _rebased(newest, past, before, after):  # type: ignore[no-untyped-def]
    total = newest + (past >> BLOCK_HALF_LIVES)
    whole = total // before
    if whole >= LARGEST >> (WEIGHT_BITS + 1):
        return LARGEST
    return whole * after + total % before * after // before


@inner
def _rebase(tables, start, stop, before, after):  # type: ignore[no-untyped-def]
    for edge in range(start, stop):
        extra = advance(tables.extra, _EXTRA * edge)
        for column in range(3):
            at = 3 * edge + column
            rebased = _rebased(load(tables.edge, at), load(extra, PAST_A + column), before, after)
            store(tables.edge, at, rebased)
            store(extra, PAST_A + column, 0)
        store(extra, EXCESS, _rebased(load(extra, EXCESS), load(extra, PAST_EXCESS), before, after))
        store(extra, PAST_EXCESS, 0)


@inner
def _advance(tables, item, shown_ms, half_life_ms):  # type: ignore[no-untyped-def]
    """Bring a row to the block of a fact; which block of the row the fact belongs to, and its weight."""
    start, stop, times = load(tables.rows, item), load(tables.rows, item + 1), advance(tables.times, 2 * item)
    if load(times, HALF_LIFE) != half_life_ms:
        if load(times, HALF_LIFE) == 0:
            store(times, LATEST, shown_ms)
        else:
            before = _weight(load(times, LATEST), load(times, HALF_LIFE))
            _rebase(tables, start, stop, before, _weight(load(times, LATEST), half_life_ms))
        store(times, HALF_LIFE, half_life_ms)
    block, newest = _block(shown_ms, half_life_ms), _block(load(times, LATEST), half_life_ms)
    if block > newest:
        for edge in range(start, stop):
            extra = advance(tables.extra, _EXTRA * edge)
            for column in range(3):
                store(extra, PAST_A + column, load(tables.edge, 3 * edge + column) if block == newest + 1 else 0)
                store(tables.edge, 3 * edge + column, 0)
            store(extra, PAST_EXCESS, load(extra, EXCESS) if block == newest + 1 else 0)
            store(extra, EXCESS, 0)
        newest = block
    store(times, LATEST, max(load(times, LATEST), shown_ms))
    return min(newest - block, _FORGOTTEN), _weight(shown_ms, half_life_ms)


@inner
def _add_fact(tables, facts, fact, number, edges, xs):  # type: ignore[no-untyped-def]
    """Add a fact to its item and to its edges; how many sums it left at the largest value."""
    j, shown, earned = load(facts.item, fact), load(facts.impressions, fact), load(facts.reward, fact)
    step, gamma, half_life_ms = load(facts.opening, fact), load(facts.gamma, fact), load(facts.half_life_ms, fact)
    saturated = _add(tables.item, 2 * j, shown) + _add(tables.item, 2 * j + 1, earned)
    block, weight, forgets = _NEWEST, WEIGHT_UNIT, half_life_ms > 0
    if forgets and (shown > 0 or earned > 0):
        block, weight = _advance(tables, j, load(facts.shown_ms, fact), half_life_ms)
    for at in range(number):
        first, w = load(edges, at), load(xs, at)
        x = w if gamma == UNIT else max((gamma * w + (UNIT >> 1)) >> UNIT_BITS, 1)
        extra = advance(tables.extra, 2 * first)
        if step != 0:
            store(extra, OPEN, load(extra, OPEN) + step * x * x)
        if block == _FORGOTTEN:
            continue
        sums, excess = advance(tables.edge, first), EXCESS
        if block == _PAST:
            sums, excess = advance(extra, PAST_A), PAST_EXCESS
        # What is nothing adds nothing, and is not touched.
        if shown > 0:
            a, d = x * shown, x * x * shown
            saturated += _add(sums, 0, _weighed(a, weight) if forgets else a)
            saturated += _add(sums, 1, _weighed(d, weight) if forgets else d)
        if earned > 0:
            b, lost = x * earned, (w - x) * earned
            saturated += _add(sums, 2, _weighed(b, weight) if forgets else b)
            saturated += _add(extra, excess, _weighed(lost, weight) if forgets else lost)
    return saturated


@inner
def _add_in_blocks(tables, facts, n_facts, found, most):  # type: ignore[no-untyped-def]
    """Add facts; of each there is room in `found` for a number, and for so many edges and their x."""
    width, saturated = 2 * most + 1, 0
    for block in range(-3 * _BLOCK, n_facts, _BLOCK):
        for fact in range(max(block + 3 * _BLOCK, 0), min(block + 4 * _BLOCK, n_facts)):
            prefetch(tables.rows, load(facts.item, fact))
        for fact in range(max(block + 2 * _BLOCK, 0), min(block + 3 * _BLOCK, n_facts)):
            j = load(facts.item, fact)
            prefetch(tables.item, 2 * j)
            prefetch(tables.times, 2 * j)
            _ask_for_row(tables.row, load(tables.rows, j), load(tables.rows, j + 1))
        for fact in range(max(block + _BLOCK, 0), min(block + 2 * _BLOCK, n_facts)):
            j, c, own = (
                load(facts.item, fact),
                load(facts.context, fact),
                advance(found, fact % (2 * _BLOCK) * width),
            )
            start, stop, first = load(tables.rows, j), load(tables.rows, j + 1), load(facts.ends, c)
            clusters, weights, count = (
                advance(facts.cluster, first),
                advance(facts.x, first),
                load(facts.ends, c + 1),
            )
            edges, own_x = advance(own, 1), advance(own, 1 + most)
            number = _edges_of(
                tables.row, tables.n_edges, start, stop, clusters, weights, count - first, edges, own_x
            )
            _ask_for_edges(tables.edge, edges, number)
            if load(facts.opening, fact) != 0 or load(facts.reward, fact) > 0:
                for at in range(number):
                    prefetch(tables.extra, 2 * load(edges, at))
            store(own, 0, number)
        for fact in range(max(block, 0), min(block + _BLOCK, n_facts)):
            own = advance(found, fact % (2 * _BLOCK) * width)
            saturated += _add_fact(tables, facts, fact, load(own, 0), advance(own, 1), advance(own, 1 + most))
    return saturated


def _entry(sources: int) -> Any:
    """The loop as it is called from outside, cached on disk for these sources."""

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
        most = np.int64(1)  # one more is written than is found
        for c in range(len(context_ptr) - 1 if sources >= 0 else 0):
            most = max(most, context_ptr[c + 1] - context_ptr[c] + 1)
        found = np.empty(2 * _BLOCK * (2 * most + 1), np.int64)
        tables = _Tables(
            pointer(item_ptr),
            pointer(edge_cluster),
            len(edge_cluster),
            pointer(edge_sums),
            pointer(item_sums),
            pointer(extra),
            pointer(times),
        )
        facts = _Facts(
            pointer(item),
            pointer(context),
            pointer(impressions),
            pointer(reward),
            pointer(opening),
            pointer(gamma),
            pointer(shown_ms),
            pointer(half_life_ms),
            pointer(context_ptr),
            pointer(cluster),
            pointer(context_x),
        )
        saturated = _add_in_blocks(tables, facts, len(item), pointer(found), most)
        found[0] = 0  # so that it lives until here
        return saturated

    return add_extended_facts


add_extended_facts = _entry(fingerprint(numba_kernels, numba_memory))

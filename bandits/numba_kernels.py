"""Compiled loops of the fast CPU backend.

The cost of a fact is the cache misses of its row. So what is needed next is asked for while the present is worked
on: by blocks of facts when adding, by stages when gathering.

Invariants: arrays are contiguous; item numbers are within the graph. Nothing is checked here.
"""

import numpy as np
from numba import njit

from bandits.numba_memory import LANES, advance, equal_lanes, load, lowest_bit, pointer, prefetch, store
from bandits.sums import LARGEST, UNIT

_SCALE_1 = 1.0 / UNIT
_SCALE_2 = 1.0 / UNIT**2
_BLOCK = 4  # facts that are asked for at once; 2 and 8 cost a tenth more
_AHEAD = 4  # candidates from one stage to the next; 2 to 12 measured alike
_SLOTS = 2 * _AHEAD  # candidates whose edges are remembered, from the stage that finds them to the one that reads
_SHORT = 2 * LANES  # edges of a row that is compared at once, and whose sums are asked for whole
_LINE = 8  # sums on a cache line
_SCAN = 64  # rows up to this length are compared whole, which is faster than bisection up to there


@njit(inline="always")
def _find(edge_cluster, n_edges, start, stop, cluster):  # type: ignore[no-untyped-def]
    """Number of the edge to a cluster within the ascending row [start, stop), or -1."""
    size = stop - start
    # Whole lanes are read, so a row must not be within `LANES` of the end of the array.
    if size <= _SCAN and stop + LANES <= n_edges:
        same = np.uint64(0)
        for lane in range(0, size, LANES):
            same |= equal_lanes(edge_cluster, start + lane, cluster) << np.uint64(lane)
        at = lowest_bit(same)
        return start + at if at < size else -1
    low, high = start, stop
    while low < high:
        middle = (low + high) >> 1
        if load(edge_cluster, middle) < cluster:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and load(edge_cluster, low) == cluster else -1


@njit(inline="always")
def _ask_for_row(edge_cluster, start, stop):  # type: ignore[no-untyped-def]
    """Ask for the clusters of the row [start, stop)."""
    for edge in range(start, min(stop, start + _SCAN), LANES):
        prefetch(edge_cluster, edge)
    prefetch(edge_cluster, stop - 1)


@njit(inline="always")
def _ask_for_sums(sums, edge):  # type: ignore[no-untyped-def]
    """Ask for the three sums of an edge, which may lie on two lines."""
    prefetch(sums, 3 * edge)
    prefetch(sums, 3 * edge + 2)


@njit(inline="always")
def _add_to_edge(sums, edge, x, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to one edge; negative if a sum wrapped, which `_cap_edges` has to put right."""
    counted = x * shown
    a, d, b = (
        load(sums, 3 * edge) + counted,
        load(sums, 3 * edge + 1) + x * counted,
        load(sums, 3 * edge + 2) + x * reward,
    )
    store(sums, 3 * edge, a)
    store(sums, 3 * edge + 1, d)
    store(sums, 3 * edge + 2, b)
    return a | d | b


@njit(inline="always")
def _add_to_item(sums, item, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to its item; how many of the two sums stopped at the largest value."""
    n, s = load(sums, 2 * item) + shown, load(sums, 2 * item + 1) + reward
    store(sums, 2 * item, n if n >= 0 else LARGEST)
    store(sums, 2 * item + 1, s if s >= 0 else LARGEST)
    return np.int64(n < 0) + np.int64(s < 0)


@njit(inline="always")
def _add_to_short_row(row, size, of_row, wanted, x, count, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to the edges of a row that fits into one vector; negative if a sum wrapped."""
    signs = np.int64(0)
    for at in range(count):
        cluster = load(wanted, at)
        same = equal_lanes(row, 0, cluster) | equal_lanes(row, LANES, cluster) << np.uint64(LANES)
        edge = lowest_bit(same)
        if edge < size:
            signs |= _add_to_edge(of_row, edge, load(x, at), shown, reward)
    return signs


@njit(nogil=True)
def _add_to_long_row(row, n_edges, start, stop, of_edge, wanted, x, count, shown, reward):  # type: ignore[no-untyped-def]
    """As `_add_to_short_row`, for the row [start, stop) of any length."""
    signs = np.int64(0)
    for at in range(count):
        edge = _find(row, n_edges, start, stop, load(wanted, at))
        if edge >= 0:
            signs |= _add_to_edge(of_edge, edge, load(x, at), shown, reward)
    return signs


@njit(nogil=True)
def _cap_edges(row, n_edges, start, stop, of_edge, wanted, count):  # type: ignore[no-untyped-def]
    """Put sums that wrapped to the largest value; of how many edges."""
    capped = 0
    for at in range(count):
        edge = _find(row, n_edges, start, stop, load(wanted, at))
        wrapped = False
        for column in range(3 * edge, 3 * edge + 3) if edge >= 0 else range(0):
            if load(of_edge, column) < 0:
                store(of_edge, column, LARGEST)
                wrapped = True
        capped += wrapped
    return capped


@njit(inline="always")
def _ask_for_items(rows, row, of_edge, of_item, items, first, end):  # type: ignore[no-untyped-def]
    """Ask for the lines of facts [first, end) whose row ends are at hand; how many of them have long rows."""
    long = np.int64(0)
    for fact in range(first, end):
        j = load(items, fact)
        start, stop = load(rows, j), load(rows, j + 1)
        prefetch(of_item, 2 * j)
        prefetch(row, start)
        prefetch(row, start + LANES)
        if stop - start <= _SHORT:
            # Sooner and cheaper than finding out first which of these few lines will be touched.
            for number in range(3 * start & -_LINE, 3 * stop, _LINE):
                prefetch(of_edge, number)
        else:
            long += 1
            _ask_for_row(row, start, stop)
    return long


@njit(nogil=True)
def _ask_for_edges(rows, row, n_edges, of_edge, items, contexts, ends, wanted, first, end):  # type: ignore[no-untyped-def]
    """Ask for the sums that facts [first, end) will touch in long rows."""
    for fact in range(first, end):
        j, c = load(items, fact), load(contexts, fact)
        start, stop = load(rows, j), load(rows, j + 1)
        if stop - start > _SHORT:
            for at in range(load(ends, c), load(ends, c + 1)):
                _ask_for_sums(of_edge, _find(row, n_edges, start, stop, load(wanted, at)))


@njit(cache=True, nogil=True)
def add_facts(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item, context, impressions, reward, context_ptr, cluster, x
):
    """Add a micro-batch in place; how many sums it left at the largest value (see `Backend.add`)."""
    n_facts, n_edges = len(item), len(edge_cluster)
    items, rows, row = pointer(item), pointer(item_ptr), pointer(edge_cluster)
    contexts, ends, wanted, xs = pointer(context), pointer(context_ptr), pointer(cluster), pointer(x)
    shown, rewards = pointer(impressions), pointer(reward)
    of_edge, of_item = pointer(edge_sums), pointer(item_sums)
    saturated = 0
    for fact in range(min(2 * _BLOCK, n_facts)):
        prefetch(rows, load(items, fact))
    _ask_for_items(rows, row, of_edge, of_item, items, 0, min(_BLOCK, n_facts))
    # Short loops one after another, and not one loop of many stages, which would run out of registers.
    for block in range(0, n_facts, _BLOCK):
        end, next_end = min(block + _BLOCK, n_facts), min(block + 2 * _BLOCK, n_facts)
        for fact in range(next_end, min(block + 3 * _BLOCK, n_facts)):
            prefetch(rows, load(items, fact))
        long = _ask_for_items(rows, row, of_edge, of_item, items, end, next_end)
        for fact in range(block, end):
            j, c, impression, r = load(items, fact), load(contexts, fact), load(shown, fact), load(rewards, fact)
            start, stop, first = load(rows, j), load(rows, j + 1), load(ends, c)
            count, clusters, weights = load(ends, c + 1) - first, advance(wanted, first), advance(xs, first)
            # Two vectors are read whatever the length, so a row must not be near the end of the array.
            if stop - start <= _SHORT and start + _SHORT <= n_edges:
                own, sums = advance(row, start), advance(of_edge, 3 * start)
                signs = _add_to_short_row(own, stop - start, sums, clusters, weights, count, impression, r)
            else:
                signs = _add_to_long_row(
                    row, n_edges, start, stop, of_edge, clusters, weights, count, impression, r
                )
            if signs < 0:
                saturated += _cap_edges(row, n_edges, start, stop, of_edge, clusters, count)
            saturated += _add_to_item(of_item, j, impression, r)
        if long:
            _ask_for_edges(rows, row, n_edges, of_edge, items, contexts, ends, wanted, end, next_end)
    return saturated


@njit(cache=True, nogil=True)
def gather_candidates(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item_hashes, items, clusters, edge, a, d, b, n, s, keys
):
    """Fill the columns of `CandidateSums` in natural units (see `Backend.gather`)."""
    n_items, n_edges, k = len(items), len(edge_cluster), len(clusters)
    rows, row, of_edge, of_item = pointer(item_ptr), pointer(edge_cluster), pointer(edge_sums), pointer(item_sums)
    numbers, wanted, hashes = pointer(items), pointer(clusters), pointer(item_hashes)
    found = np.empty((_SLOTS, k), np.int64)
    for step in range(n_items + 3 * _AHEAD):
        if step < n_items:
            prefetch(rows, load(numbers, step))
        i = step - _AHEAD
        if 0 <= i < n_items:
            j = load(numbers, i)
            _ask_for_row(row, load(rows, j), load(rows, j + 1))
            prefetch(of_item, 2 * j)
            prefetch(hashes, 2 * j)
        i = step - 2 * _AHEAD
        if 0 <= i < n_items:
            j = load(numbers, i)
            start, stop = load(rows, j), load(rows, j + 1)
            for c in range(k):
                at = _find(row, n_edges, start, stop, load(wanted, c))
                _ask_for_sums(of_edge, at)
                found[i % _SLOTS, c] = at
        i = step - 3 * _AHEAD
        if i >= 0:
            for c in range(k):
                at = found[i % _SLOTS, c]
                here = at >= 0
                edge[i, c] = here
                a[i, c] = load(of_edge, 3 * at) * _SCALE_1 if here else 0.0
                d[i, c] = load(of_edge, 3 * at + 1) * _SCALE_2 if here else 0.0
                b[i, c] = load(of_edge, 3 * at + 2) * _SCALE_2 if here else 0.0
            j = load(numbers, i)
            n[i], s[i], keys[i] = load(of_item, 2 * j), load(of_item, 2 * j + 1) * _SCALE_1, load(hashes, 2 * j)

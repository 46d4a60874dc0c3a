"""Compiled loops of the fast CPU backend.

The cost of a fact is the cache misses of its row. So what is needed next is asked for while the present is worked
on: by blocks of facts when adding, by stages when gathering.

Invariants: arrays are contiguous; item numbers are within the graph. Nothing is checked here.
"""

import numpy as np
from numba import njit

from bandits.numba_inner import inner
from bandits.numba_memory import LANES, advance, equal_lanes, load, lowest_bit, pointer, prefetch, store
from bandits.sums import LARGEST, UNIT

_SCALE_1 = 1.0 / UNIT
_SCALE_2 = 1.0 / UNIT**2
_BLOCK = 8  # facts from one stage to the next; 4 and 16 measured alike
_AHEAD = 4  # candidates from one stage to the next; 2 to 12 measured alike
_SLOTS = 2 * _AHEAD  # candidates whose edges are remembered, from the stage that finds them to the one that reads
_SHORT = 2 * LANES  # edges of a row that is compared at once
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
def _add_to_item(sums, item, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to its item; how many of the two sums stopped at the largest value."""
    n, s = load(sums, 2 * item) + shown, load(sums, 2 * item + 1) + reward
    store(sums, 2 * item, n if n >= 0 else LARGEST)
    store(sums, 2 * item + 1, s if s >= 0 else LARGEST)
    return np.int64(n < 0) + np.int64(s < 0)


@njit(inline="always")
def _edges_of(row, n_edges, start, stop, wanted, x, count, edges, weights):  # type: ignore[no-untyped-def]
    """Where the sums of the edges to some clusters lie, and the x of each; how many they are.

    No branch depends on whether there is an edge: it would be guessed wrong as often as not.
    """
    found, size = np.int64(0), stop - start
    # Two vectors are read whatever the length, so a row must not be near the end of the array.
    if size <= _SHORT and start + _SHORT <= n_edges:
        own = advance(row, start)
        for at in range(count):
            cluster = load(wanted, at)
            same = equal_lanes(own, 0, cluster) | equal_lanes(own, LANES, cluster) << np.uint64(LANES)
            edge = lowest_bit(same)
            store(edges, found, 3 * (start + edge))
            store(weights, found, load(x, at))
            found += np.int64(edge < size)
    else:
        for at in range(count):
            edge = _find(row, n_edges, start, stop, load(wanted, at))
            store(edges, found, 3 * edge)
            store(weights, found, load(x, at))
            found += np.int64(edge >= 0)
    return found


@njit(inline="always")
def _ask_for_edges(of_edge, edges, found):  # type: ignore[no-untyped-def]
    """Ask for the sums of edges, each of which may lie on two lines."""
    for at in range(found):
        prefetch(of_edge, load(edges, at))
        prefetch(of_edge, load(edges, at) + 2)


@njit(inline="always")
def _add_to_edges(of_edge, edges, weights, found, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to its edges; negative if a sum wrapped, which `_cap_edges` has to put right."""
    signs = np.int64(0)
    if shown != 0:
        for at in range(found):
            edge, x = load(edges, at), load(weights, at)
            a, d = load(of_edge, edge) + x * shown, load(of_edge, edge + 1) + x * (x * shown)
            store(of_edge, edge, a)
            store(of_edge, edge + 1, d)
            signs |= a | d
    if reward != 0:
        for at in range(found):
            edge = load(edges, at)
            b = load(of_edge, edge + 2) + load(weights, at) * reward
            store(of_edge, edge + 2, b)
            signs |= b
    return signs


@inner
def _cap_edges(of_edge, edges, found):  # type: ignore[no-untyped-def]
    """Put sums that wrapped to the largest value; of how many edges."""
    capped = 0
    for at in range(found):
        edge, wrapped = load(edges, at), False
        for column in range(edge, edge + 3):
            if load(of_edge, column) < 0:
                store(of_edge, column, LARGEST)
                wrapped = True
        capped += wrapped
    return capped


@inner
def _add_in_blocks(  # type: ignore[no-untyped-def]
    rows, row, n_edges, of_edge, of_item, items, contexts, shown, rewards, n_facts, ends, wanted, xs, found, most
):
    """Add facts; of each there is room in `found` for a number, and for so many edges and their x."""
    width, saturated = 2 * most + 1, 0
    # Short loops one after another, and not one loop of many stages, which would run out of registers.
    for block in range(-3 * _BLOCK, n_facts, _BLOCK):
        for fact in range(max(block + 3 * _BLOCK, 0), min(block + 4 * _BLOCK, n_facts)):
            prefetch(rows, load(items, fact))
        for fact in range(max(block + 2 * _BLOCK, 0), min(block + 3 * _BLOCK, n_facts)):
            j = load(items, fact)
            prefetch(of_item, 2 * j)
            _ask_for_row(row, load(rows, j), load(rows, j + 1))
        for fact in range(max(block + _BLOCK, 0), min(block + 2 * _BLOCK, n_facts)):
            j, c, own = load(items, fact), load(contexts, fact), advance(found, fact % (2 * _BLOCK) * width)
            start, stop, first = load(rows, j), load(rows, j + 1), load(ends, c)
            clusters, weights, count = advance(wanted, first), advance(xs, first), load(ends, c + 1) - first
            edges, own_x = advance(own, 1), advance(own, 1 + most)
            number = _edges_of(row, n_edges, start, stop, clusters, weights, count, edges, own_x)
            _ask_for_edges(of_edge, edges, number)
            store(own, 0, number)
        for fact in range(max(block, 0), min(block + _BLOCK, n_facts)):
            impression, r, own = load(shown, fact), load(rewards, fact), advance(found, fact % (2 * _BLOCK) * width)
            number, edges, own_x = load(own, 0), advance(own, 1), advance(own, 1 + most)
            if _add_to_edges(of_edge, edges, own_x, number, impression, r) < 0:
                saturated += _cap_edges(of_edge, edges, number)
            saturated += _add_to_item(of_item, load(items, fact), impression, r)
    return saturated


@njit(cache=True, nogil=True)
def add_facts(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item, context, impressions, reward, context_ptr, cluster, x
):
    """Add a micro-batch in place; how many sums it left at the largest value (see `Backend.add`)."""
    ends, most = pointer(context_ptr), np.int64(1)  # one more is written than is found
    for c in range(len(context_ptr) - 1):
        most = max(most, load(ends, c + 1) - load(ends, c) + 1)
    found = np.empty(2 * _BLOCK * (2 * most + 1), np.int64)
    saturated = _add_in_blocks(
        pointer(item_ptr),
        pointer(edge_cluster),
        len(edge_cluster),
        pointer(edge_sums),
        pointer(item_sums),
        pointer(item),
        pointer(context),
        pointer(impressions),
        pointer(reward),
        len(item),
        ends,
        pointer(cluster),
        pointer(x),
        pointer(found),
        most,
    )
    found[0] = 0  # so that it lives until here
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

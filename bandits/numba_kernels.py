"""Compiled loops of the fast CPU backend.

The cost of a fact is the cache misses of its row. So facts go through a pipeline: each stage asks for the lines
that the next one needs, `_AHEAD` facts later, and sums of edges that a fact does not touch are never asked for.

Invariants: arrays are contiguous; item numbers are within the graph. Nothing is checked here.
"""

import numpy as np
from numba import njit

from bandits.numba_memory import LANES, equal_lanes, load, lowest_bit, pointer, prefetch, store
from bandits.sums import LARGEST, UNIT

_SCALE_1 = 1.0 / UNIT
_SCALE_2 = 1.0 / UNIT**2
_AHEAD = 4  # facts from one stage to the next; 2 to 12 measured alike
_SLOTS = 2 * _AHEAD  # facts whose edges are remembered, from the stage that finds them to the one that adds
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
def _cap(added):  # type: ignore[no-untyped-def]
    """A sum of two numbers >= 0, or the largest value where it wrapped."""
    return added if added >= 0 else LARGEST


@njit(inline="always")
def _add_to_edge(sums, edge, x, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to one edge; 1 if a sum stopped at the largest value."""
    a, d, b = load(sums, 3 * edge), load(sums, 3 * edge + 1), load(sums, 3 * edge + 2)
    a, d, b = a + x * shown, d + x * x * shown, b + x * reward
    wrapped = (a | d | b) < 0
    if wrapped:
        a, d, b = _cap(a), _cap(d), _cap(b)
    store(sums, 3 * edge, a)
    store(sums, 3 * edge + 1, d)
    store(sums, 3 * edge + 2, b)
    return np.int64(wrapped)


@njit(inline="always")
def _add_to_item(sums, item, shown, reward):  # type: ignore[no-untyped-def]
    """Add one fact to its item; how many of the two sums stopped at the largest value."""
    n, s = load(sums, 2 * item) + shown, load(sums, 2 * item + 1) + reward
    store(sums, 2 * item, _cap(n))
    store(sums, 2 * item + 1, _cap(s))
    return np.int64(n < 0) + np.int64(s < 0)


@njit(cache=True, nogil=True)
def add_facts(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item, context, impressions, reward, context_ptr, cluster, x
):
    """Add a micro-batch in place; how many sums it left at the largest value (see `Backend.add`)."""
    n_facts, n_edges = len(item), len(edge_cluster)
    widest = np.diff(context_ptr).max() if len(context_ptr) > 1 else 0
    # What was found of fact f is in slot f % _SLOTS.
    found, found_x = np.empty((_SLOTS, widest), np.int64), np.empty((_SLOTS, widest), np.int64)
    count = np.empty(_SLOTS, np.int64)
    items, rows, clusters = pointer(item), pointer(item_ptr), pointer(edge_cluster)
    contexts, ends, wanted, xs = pointer(context), pointer(context_ptr), pointer(cluster), pointer(x)
    shown, rewards = pointer(impressions), pointer(reward)
    of_edge, of_item = pointer(edge_sums), pointer(item_sums)
    saturated = 0
    for step in range(n_facts + 3 * _AHEAD):
        if step < n_facts:
            prefetch(rows, load(items, step))
        fact = step - _AHEAD
        if 0 <= fact < n_facts:
            j = load(items, fact)
            _ask_for_row(clusters, load(rows, j), load(rows, j + 1))
            prefetch(of_item, 2 * j)
        fact = step - 2 * _AHEAD
        if 0 <= fact < n_facts:
            j, c, slot = load(items, fact), load(contexts, fact), fact % _SLOTS
            start, stop, hits = load(rows, j), load(rows, j + 1), 0
            for at in range(load(ends, c), load(ends, c + 1)):
                edge = _find(clusters, n_edges, start, stop, load(wanted, at))
                _ask_for_sums(of_edge, edge)
                found[slot, hits], found_x[slot, hits] = edge, load(xs, at)
                hits += edge >= 0  # the next one goes over an edge that is not there
            count[slot] = hits
        fact = step - 3 * _AHEAD
        if fact >= 0:
            slot, impression, r = fact % _SLOTS, load(shown, fact), load(rewards, fact)
            for hit in range(count[slot]):
                saturated += _add_to_edge(of_edge, found[slot, hit], found_x[slot, hit], impression, r)
            saturated += _add_to_item(of_item, load(items, fact), impression, r)
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

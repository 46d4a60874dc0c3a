"""Compiled checks of what a scan has read, shared by the encodings: contexts, times, and a slate as a whole.

Promises: what passes here would pass `streams.validation`; what does not is for it to judge. Numba's cache of the
scans does not notice when this file changes: touch them along with it.
"""

import numpy as np
from numba import njit

from bandits.numba_memory import load, store
from bandits.sums import UNIT


@njit
def time_is_fine(occurred_ms, now_ms, bounds):  # type: ignore[no-untyped-def]
    """True for 0 (unknown) and for a time that is not in the future; how old it is decides the joiner."""
    return 0 <= occurred_ms <= bounds.time_ms and occurred_ms - now_ms <= bounds.skew_ms


@njit
def context_is_settled(clusters, xs, weights, start, n):  # type: ignore[no-untyped-def]
    """Sort the context start:start + n by cluster and round its weights; False if it is not one.

    The clusters are in the column of all contexts, in any order; `weights` (float64) are of this one alone.
    """
    previous = np.int32(-1)
    ascending = True
    for at in range(n):
        weight = load(weights, at)
        if not 0.0 < weight <= 1.0:
            return False
        # As `bandits.context.fixed_point_weights`: half to even, and something never becomes nothing.
        store(xs, start + at, np.int64(max(np.rint(weight * UNIT), 1.0)))
        cluster = load(clusters, start + at)
        ascending &= cluster > previous
        previous = cluster
    if ascending:
        return True
    for at in range(start + 1, start + n):
        cluster, x, to = load(clusters, at), load(xs, at), at
        while to > start and load(clusters, to - 1) > cluster:
            store(clusters, to, load(clusters, to - 1))
            store(xs, to, load(xs, to - 1))
            to -= 1
        if to > start and load(clusters, to - 1) == cluster:
            return False
        store(clusters, to, cluster)
        store(xs, to, x)
    return True

"""Compiled propensities of the chosen where scores are drawn, integrated over all draws.

This takes longer to compile than all else of a request together, and Numba compiles what a function calls into the
function. So requests call it by an address (`integrated_at`), and it is compiled once, not into each of them.

Invariants: 0 < propensity <= 1; nothing is checked here.
"""

import numpy as np
from numba import types

from bandits.drawn_ranks import SMALLEST_PROPENSITY
from bandits.numba_addresses import caller, pointers_to
from bandits.numba_inner import inner
from bandits.numba_memory import pointer
from bandits.numba_ranks import drawn_ranks
from bandits.numba_slates import position_probability
from bandits.policies import STEADY


@inner
def integrated(mean, width, factor, normal, chosen, top_m, share, head, band, propensity):  # type: ignore[no-untyped-def]
    """Propensities of the chosen, who score mean + factor * width * T: T and `normal` as `drawn_ranks` has them.

    A width that is infinite makes a score infinite whatever is drawn: such candidates are tied with each other
    above all others, and the propensities that they have are kept. The rest is as for `pick_slate`.
    """
    n, size = len(mean), len(chosen)
    depth = min(max(size, top_m), n)
    base, scale, place, finite = np.empty(n), np.empty(n), np.empty(n, np.int64), 0
    drawn, steady = (factor, 0.0) if normal else (factor * (1.0 - STEADY), factor * STEADY)
    for i in range(n):
        place[i] = finite
        base[finite], scale[finite] = mean[i] + steady * width[i], drawn * width[i]
        finite += width[i] != np.inf
    first = n - finite  # rank of the best of the others
    if first >= depth:
        return
    whole = share > 0.0 or top_m > 1
    slots, count = np.empty(size, np.int64), 0
    for slot in range(size):
        slots[count] = slot
        count += width[chosen[slot]] != np.inf
    slots = slots[:count]
    wanted = np.full(count, -1) if whole else slots - first
    ranks = np.empty((count, depth - first))
    drawn_ranks(base[:finite], scale[:finite], normal, place[chosen[slots]], depth - first, wanted, ranks)
    for at in range(count):
        slot, total, left = slots[at], 0.0, 1.0
        if not whole:
            total = ranks[at, slot - first]
        for rank in range(first, depth) if whole else range(0):
            chance = ranks[at, rank - first]
            left -= chance
            total += chance * position_probability(rank, rank + 1, slot, n, size, top_m, share, head, band)
        if whole and depth < n and left > 0.0:
            total += left * position_probability(depth, depth + 1, slot, n, size, top_m, share, head, band)
        propensity[slot] = min(max(total, SMALLEST_PROPENSITY), 1.0)


# What an address is called with: arrays as pointers and lengths, tables with both of theirs.
ARGUMENTS = (
    *(pointers_to(types.float64), pointers_to(types.float64), types.int64),  # mean, width, candidates
    *(types.float64, types.int64),  # factor, normal
    *(pointers_to(types.int64), types.int64, types.int64, types.float64),  # chosen, slots, top_m, share
    *(pointers_to(types.float64), types.int64, types.int64),  # head
    *(pointers_to(types.float64), types.int64, types.int64),  # band
    pointers_to(types.float64),  # propensity
)


@inner
def integrated_at(late, mean, width, factor, normal, chosen, top_m, share, head, band, propensity):  # type: ignore[no-untyped-def]
    """As `integrated`, which lies at the address `late`; arrays are contiguous."""
    _call(
        np.int64(late),
        (
            *(pointer(mean), pointer(width), np.int64(len(mean)), np.float64(factor), np.int64(normal)),
            *(pointer(chosen), np.int64(len(chosen)), np.int64(top_m), np.float64(share)),
            *(pointer(head), np.int64(head.shape[0]), np.int64(head.shape[1])),
            *(pointer(band), np.int64(band.shape[0]), np.int64(band.shape[1]), pointer(propensity)),
        ),
    )


_call = caller(ARGUMENTS)

"""Compiled retrieval: the items around a user and their scores, in one pass over the edges of the user's clusters.

Edges are read cluster by cluster, one after the other, and only the sums, wherever their item is, have to be
fetched; a table with an entry for each item says where an item's terms add up.

Invariant: the same candidates as `Graph.items_around`, and the same scores as `score_candidates` gives them, bit
for bit; the order of the candidates is that in which they were found. Nothing is checked here.
"""

import numpy as np
from numba import njit

from bandits.draws import OPTIMISM, THOMPSON
from bandits.numba_addresses import int32_at, int64_at, uint8_at, uint64_at
from bandits.numba_draws import stream_key
from bandits.numba_inner import inner
from bandits.numba_kernels import _find
from bandits.numba_memory import load, pointer, prefetch, store
from bandits.numba_scores import RANDOMIZED, add_centred, add_plain, centred_terms, item_terms, plain_terms, settle

_AHEAD = 12  # edges
# The row of a graph's other orientation: arrays of `bandits.graph.Graph`, and which items of it still count.
AROUND = ("cluster_ptr", "cluster_item", "cluster_edge", "live")


@inner
def retrieve(view, around, attached, attached_ends, clusters, weights, policy, quantiles, seed, place, room):  # type: ignore[no-untyped-def]
    """Candidates and their score, mean, width and keys, as five arrays.

    `view` and `around` are pointers to rows `VIEW` and `AROUND`; `attached` (int32) are items that were attached to
    the clusters since the graph was built, and `attached_ends` says how many to each; `place` (int32) has an entry
    for each item, all -1 before and after; `room` is as many edges as the clusters have.
    """
    ptr, items, edges = int64_at(load(around, 0)), int32_at(load(around, 1)), int64_at(load(around, 2))
    rows, row, n_edges = int64_at(load(view, 0)), int32_at(load(view, 1)), load(view, 5)
    of_edge, of_item, hashes = int64_at(load(view, 2)), int64_at(load(view, 3)), uint64_at(load(view, 4))
    randomized = load(policy, 0) == RANDOMIZED
    found = np.empty(room, np.int32)
    total, square, blank = np.empty(room), np.empty(room), np.empty(room)
    plain, centred = plain_terms(policy), centred_terms(policy)
    of_one, towards = np.empty(room if randomized else 0), np.empty(room if randomized else 0)
    slots, first_attached, count = pointer(place), np.int64(0), 0
    for c in range(len(clusters)):
        cluster, w = np.int64(clusters[c]), weights[c]
        start, stop = load(ptr, cluster), load(ptr, cluster + 1)
        for at in range(start, stop + attached_ends[c] - first_attached):
            if at < stop:
                if at + _AHEAD < stop:
                    later = load(edges, at + _AHEAD)
                    prefetch(of_edge, 3 * later)
                    prefetch(of_edge, 3 * later + 2)
                    prefetch(slots, load(items, at + _AHEAD))
                    if randomized:
                        prefetch(of_item, 2 * load(items, at + _AHEAD))
                item, edge = np.int64(load(items, at)), np.int64(load(edges, at))
                if not _is_live(around, item):
                    continue
            else:
                item = np.int64(attached[first_attached + at - stop])
                if not _is_live(around, item):
                    continue
                edge = np.int64(_find(row, n_edges, load(rows, item), load(rows, item + 1), clusters[c]))
            slot = np.int64(load(slots, item))
            if slot < 0:
                slot = np.int64(count)
                store(slots, item, np.int32(slot))
                found[slot], total[slot], square[slot], blank[slot] = item, 0.0, 0.0, 0.0
                if randomized:
                    of_one[slot], towards[slot] = item_terms(of_item, item, centred)
                count += 1
            if randomized:
                total[slot], square[slot] = add_centred(
                    of_edge, edge, w, centred, of_one[slot], towards[slot], total[slot], square[slot]
                )
            else:
                total[slot], square[slot], blank[slot] = add_plain(
                    of_edge, edge, w, plain, total[slot], square[slot], blank[slot]
                )
        first_attached = attached_ends[c]
    score, mean, width, keys = np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.uint64)
    offset, factor = stream_key(seed, OPTIMISM if randomized else THOMPSON)
    for i in range(count):
        if i + _AHEAD < count:
            prefetch(hashes, 2 * found[i + _AHEAD])
        key = load(hashes, 2 * found[i])
        keys[i] = key
        store(slots, found[i], np.int32(-1))
        settle(
            i, total[i], square[i], blank[i], policy, quantiles, offset, factor, key,
            pointer(score), pointer(mean), pointer(width),
        )  # fmt: skip
    return found[:count], score, mean, width, keys


@njit(inline="always")
def _is_live(around, item):  # type: ignore[no-untyped-def]
    return load(around, 3) == 0 or load(uint8_at(load(around, 3)), item) != 0

"""Compiled reading of packed queries: each slate's candidates and user, checked.

Invariants: a slate that has no problem is one that the unary call would take, with the same candidates and user; a
slate with a problem is left out and harms no other. Nothing is checked that `server.packed.columns` has checked.
"""

import sys
from typing import Any

import numpy as np
from numba import njit

from bandits import numba_addresses, numba_context, numba_memory
from bandits.numba_cache import fingerprint
from bandits.numba_context import is_direction, nearest_of, rough_products
from bandits.numba_inner import inner
from bandits.numba_memory import advance, pointer
from bandits.sums import UNIT
from server.lane import read_score
from server.lane.read_score import _all_new
from streams.limits import MAX_CLUSTERS_PER_CONTEXT

# What is wrong with a slate; `where` says with which entry of it.
FINE, REPEATED_ITEM, BAD_CLUSTER, REPEATED_CLUSTER, BAD_WEIGHT, BAD_EMBEDDING = range(6)
WIDEST = MAX_CLUSTERS_PER_CONTEXT
_TOGETHER = 16  # embeddings that are resolved at once


@inner
def _read_packed(  # type: ignore[no-untyped-def]
    numbers, item_ends, clusters, weights, cluster_ends, embeddings, centroids, largest, k, temperature,
    kept, places, kept_ends, users, affinities, user_sizes, problem, where,
):  # fmt: skip
    """Read all slates of a message.

    `numbers` are the candidates' numbers, -1 where unknown; the next five as in `server.packed.columns.Queries`;
    `centroids` is a row of `bandits.numba_context.CENTROIDS`. Filled are `kept` and `places` (int32), the known
    candidates and which of the slate's they are, `kept_ends` (int64), `users` (int32) and `affinities` (float64),
    `WIDEST` a slate, `user_sizes`, `problem` and `where` (int32).
    """
    n_slates, count, start = len(item_ends), 0, 0
    for slate in range(n_slates):
        first = count
        for at in range(start, item_ends[slate]):
            if numbers[at] >= 0:
                kept[count], places[count] = numbers[at], at - start
                count += 1
        kept_ends[slate] = count
        problem[slate], where[slate], user_sizes[slate] = FINE, 0, 0
        again = _repeated(kept[first:count])
        if again >= 0:
            problem[slate], where[slate] = REPEATED_ITEM, places[first + again]
        start = item_ends[slate]
    if len(embeddings):
        _resolve_all(embeddings, centroids, largest, k, temperature, users, affinities, user_sizes, problem, where)
    else:
        start = 0
        for slate in range(n_slates):
            end, base = cluster_ends[slate], slate * WIDEST
            if problem[slate] == FINE:
                problem[slate], where[slate] = _clusters(
                    clusters[start:end], weights[start:end], centroids[1], users[base:], affinities[base:]
                )
                user_sizes[slate] = end - start
            start = end


@inner
def _repeated(items):  # type: ignore[no-untyped-def]
    """Which of some candidates is there for the second time, or -1."""
    size = 64
    while size < 2 * len(items):
        size *= 2
    if _all_new(items, np.full(size, -1, np.int32)):
        return -1
    for one in range(len(items)):
        for other in range(one):
            if items[one] == items[other]:
                return one
    return -1


@inner
def _clusters(clusters, weights, n_clusters, user, affinity):  # type: ignore[no-untyped-def]
    """Check one user and write it, clusters ascending and weights rounded; the problem, and with which entry."""
    for got in range(len(clusters)):
        cluster, weight = clusters[got], np.float64(weights[got])
        if not 0 <= cluster < n_clusters:
            return BAD_CLUSTER, got
        if not 0.0 < weight <= 1.0:
            return BAD_WEIGHT, got
        to = got
        while to > 0 and user[to - 1] > cluster:
            user[to], affinity[to] = user[to - 1], affinity[to - 1]
            to -= 1
        if to > 0 and user[to - 1] == cluster:
            return REPEATED_CLUSTER, got
        user[to], affinity[to] = cluster, min(max(np.rint(weight * UNIT), 1.0), np.float64(UNIT)) / UNIT
    return FINE, 0


@inner
def _resolve_all(embeddings, centroids, largest, k, temperature, users, affinities, user_sizes, problem, where):  # type: ignore[no-untyped-def]
    n_slates, n_clusters, dim = len(problem), centroids[1], centroids[2]
    rough = np.empty((min(_TOGETHER, n_slates), n_clusters), np.float32)
    row, values, user, affinity = pointer(centroids), pointer(embeddings), pointer(users), pointer(affinities)
    for first in range(0, n_slates, _TOGETHER):
        count = min(_TOGETHER, n_slates - first)
        rough_products(row, advance(values, first * dim), count, rough)
        for slate in range(first, first + count):
            embedding = advance(values, slate * dim)
            if problem[slate] != FINE:
                continue
            if not is_direction(embedding, dim):
                problem[slate] = BAD_EMBEDDING
                continue
            to, weight_to = advance(user, slate * WIDEST), advance(affinity, slate * WIDEST)
            user_sizes[slate] = nearest_of(
                row, largest, embedding, rough[slate - first], k, temperature, to, weight_to
            )


def _entry(sources: int) -> Any:
    """`_read_packed` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def read_packed(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return _read_packed(*arguments)

    return read_packed


read_packed = _entry(fingerprint(numba_addresses, numba_context, numba_memory, read_score, sys.modules[__name__]))

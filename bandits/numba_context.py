"""Compiled resolving of one embedding into clusters and weights.

Invariant: equal to `bandits.context.resolve_embedding`: the same clusters always, the same weights unless one lies
within rounding of the middle between two multiples of 2^-15, where two exponential functions may differ.
"""

import math

import numpy as np

from bandits.numba_addresses import float32_at
from bandits.numba_inner import inner
from bandits.numba_memory import advance, load, pointer, store
from bandits.sums import UNIT

# The row of a graph's centroids: address, count, dimensions. Beside it the largest magnitude of any number in them.
CENTROIDS = ("centroids", "n_clusters", "dim")
_BLOCK_NUMBERS = (
    4096  # of centroids that are multiplied with one embedding after the other: half of the first cache
)


@inner(fastmath={"reassoc", "contract", "nsz"})
def _rough_product(centroids, start, embedding, dim):  # type: ignore[no-untyped-def]
    """An inner product in float32, added in whatever order is fastest."""
    total = np.float32(0.0)
    for i in range(dim):
        total += load(centroids, start + i) * load(embedding, i)
    return total


@inner
def _exact_product(centroids, start, embedding, dim):  # type: ignore[no-untyped-def]
    """An inner product as `bandits.context` defines it."""
    total = np.float64(load(centroids, start)) * np.float64(load(embedding, 0))
    for i in range(1, dim):
        total += np.float64(load(centroids, start + i)) * np.float64(load(embedding, i))
    return total


@inner
def is_direction(embedding, dim):  # type: ignore[no-untyped-def]
    """True if all numbers are finite and one is not zero."""
    finite, something = True, False
    for i in range(dim):
        value = load(embedding, i)
        finite &= math.isfinite(value)
        something |= value != 0.0
    return finite and something


@inner
def rough_products(row, embeddings, count, rough):  # type: ignore[no-untyped-def]
    """Inner products of some embeddings with all centroids, float32, `rough` of shape (count, n_clusters).

    Centroids are taken block by block, so that they are read from memory once for all embeddings.
    """
    centroids, n_clusters, dim = float32_at(load(row, 0)), load(row, 1), load(row, 2)
    step = max(1, _BLOCK_NUMBERS // dim)
    for start in range(0, n_clusters, step):
        for one in range(count):
            embedding = advance(embeddings, one * dim)
            for c in range(start, min(start + step, n_clusters)):
                rough[one, c] = _rough_product(centroids, c * dim, embedding, dim)


@inner
def nearest_of(row, largest, embedding, rough, k, temperature, clusters, weights):  # type: ignore[no-untyped-def]
    """Clusters and weights of a direction, whose rough products are known, written to two pointers; how many.

    `row` is a pointer to `CENTROIDS`; `embedding` one to float32 that `is_direction`; `clusters` (int32) and
    `weights` (float64) have room for k.
    """
    centroids, n_clusters, dim = float32_at(load(row, 0)), load(row, 1), load(row, 2)
    k = min(k, n_clusters)
    best = np.full(k, -np.inf, np.float32)
    for c in range(n_clusters):
        product = rough[c]
        if product > best[k - 1]:
            at = k - 1
            while at > 0 and best[at - 1] < product:
                best[at] = best[at - 1]
                at -= 1
            best[at] = product
    exact = np.full(k, -np.inf)
    nearest = np.full(k, n_clusters, np.int64)
    lowest = _threshold(np.float64(best[k - 1]), largest, embedding, dim)
    for c in range(n_clusters):
        if rough[c] < lowest:
            continue
        product = _exact_product(centroids, c * dim, embedding, dim)
        at = k
        while at > 0 and exact[at - 1] < product:
            at -= 1
        for to in range(k - 1, at, -1):
            exact[to], nearest[to] = exact[to - 1], nearest[to - 1]
        if at < k:
            exact[at], nearest[at] = product, c
    _weigh(exact, nearest, temperature, clusters, weights)
    return k


@inner
def resolve(row, largest, embedding, k, temperature, clusters, weights):  # type: ignore[no-untyped-def]
    """As `nearest_of`, of one embedding whose products are yet to be found."""
    rough = np.empty((1, load(row, 1)), np.float32)
    rough_products(row, embedding, 1, rough)
    return nearest_of(row, largest, embedding, rough[0], k, temperature, clusters, weights)


@inner
def _threshold(kth, largest, embedding, dim):  # type: ignore[no-untyped-def]
    """Below this no rough product can be one of the k largest (see `bandits.context._contenders`)."""
    magnitude = 0.0
    for i in range(dim):
        magnitude += abs(np.float64(load(embedding, i)))
    magnitude *= largest
    if magnitude > 1e38 or not math.isfinite(kth):
        return -np.inf
    return kth - (dim + 2) * (magnitude * 2.0**-22 + 2.0**-120)


@inner
def _weigh(exact, nearest, temperature, clusters, weights):  # type: ignore[no-untyped-def]
    """Softmax, rounded as by `fixed_point_weights`, clusters ascending."""
    k = len(exact)
    terms = np.empty(k)
    total = 0.0
    for at in range(k):
        terms[at] = math.exp((exact[at] - exact[0]) / temperature)
        total += terms[at]
    order = np.argsort(nearest)
    for at in range(k):
        weight = max(terms[order[at]] / total, 1.0 / UNIT)
        store(clusters, at, np.int32(nearest[order[at]]))
        store(weights, at, min(max(np.rint(weight * UNIT), 1.0), np.float64(UNIT)) / UNIT)


@inner
def resolve_one(row, largest, embedding, k, temperature):  # type: ignore[no-untyped-def]
    """As `resolve`, with arrays: clusters, int32, and weights, float64, of shape (min(k, n_clusters),)."""
    count = min(k, row[1])
    clusters, weights = np.empty(count, np.int32), np.empty(count)
    resolve(pointer(row), largest, pointer(embedding), k, temperature, pointer(clusters), pointer(weights))
    return clusters, weights

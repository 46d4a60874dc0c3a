"""Spherical k-means on the arrays of any library that speaks NumPy's language: CuPy on a GPU, NumPy to check it.

Invariant: the same points, start and library give the same bytes: sums of a cluster are integers, so their order
does not matter, and a tie goes to the lower number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bandits.graph import Float32

Array = Any  # of the library that is passed in

_UNIT_BITS = 30  # of a coordinate in an integer sum; 2^33 points of length 1 fit
_PRODUCTS = 1 << 28  # at most so many at a time: 1 GiB


def spherical_k_means(
    xp: Any, points: Float32, start: Float32, *, iterations: int, progress: Callable[[int], None]
) -> Float32:
    """Centroids after some iterations of Lloyd's algorithm, float32 of shape (n_clusters, dim), each of length 1.

    A cluster that has lost all its points goes to the point that is furthest from its own centroid. Centroids of
    points that cancel each other out are all zero.

    Args:
        xp: the library, for example `cupy` or `numpy`.
        points: float32 of shape (n, dim), each of length 1, n >= n_clusters.
        start: centroids to begin with, float32 of shape (n_clusters, dim), each of length 1.
        iterations: 1 or more.
        progress: told the iterations done so far.

    Raises:
        MemoryError: the points and their products do not fit into the memory of the device.
    """
    there, centroids = xp.asarray(points), xp.asarray(start)
    whole = xp.rint(there * np.float32(1 << _UNIT_BITS)).astype(np.int64)
    for iteration in range(iterations):
        owner, product = _nearest(xp, there, centroids)
        sums, counts = _sums(xp, whole, owner, len(centroids))
        centroids = _directions(xp, sums)
        empty = xp.flatnonzero(counts == 0)
        if len(empty):
            centroids[empty] = there[xp.argsort(product, kind="stable")[: len(empty)]]
        progress(iteration + 1)
    host: Float32 = centroids if xp is np else xp.asnumpy(centroids)
    return host


def _nearest(xp: Any, points: Array, centroids: Array) -> tuple[Array, Array]:
    """Cluster of each point, and their inner product."""
    owner, product = xp.empty(len(points), np.int64), xp.empty(len(points), np.float32)
    step = max(1, _PRODUCTS // len(centroids))
    for first in range(0, len(points), step):
        products = points[first : first + step] @ centroids.T
        owner[first : first + step] = products.argmax(axis=1)
        product[first : first + step] = products.max(axis=1)
    return owner, product


def _sums(xp: Any, whole: Array, owner: Array, clusters: int) -> tuple[Array, Array]:
    """Sum of the points of each cluster, int64 of shape (clusters, dim), and how many there are."""
    order = xp.argsort(owner, kind="stable")
    ends = xp.searchsorted(owner[order], xp.arange(clusters), side="right")
    up_to = xp.zeros((len(whole) + 1, whole.shape[1]), np.int64)
    up_to[1:] = xp.cumsum(whole[order], axis=0)
    starts = xp.concatenate([xp.zeros(1, ends.dtype), ends[:-1]])
    return up_to[ends] - up_to[starts], ends - starts


def _directions(xp: Any, sums: Array) -> Array:
    """Rows of length 1; rows of zeros stay."""
    rows = sums.astype(np.float64)
    length = xp.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return (rows / xp.maximum(length, 1.0)).astype(np.float32)

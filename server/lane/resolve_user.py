"""One embedding to clusters and weights by compiled loops, for calls that go the long way."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits import numba_addresses, numba_context, numba_memory
from bandits.context import Context
from bandits.numba_cache import fingerprint
from bandits.numba_context import is_direction, resolve_one
from bandits.numba_memory import pointer
from server.lane.lane_graph import LaneGraph


def resolve_direction(
    graph: LaneGraph, embedding: npt.NDArray[np.float32], *, k: int, temperature: float
) -> Context | None:
    """As `bandits.context.resolve_embedding`; None if the embedding is no direction among the graph's centroids.

    Args:
        graph: the graph.
        embedding: float32 of shape (n,), contiguous.
        k: number of clusters, 1 or more.
        temperature: of the softmax.
    """
    if len(embedding) == 0 or len(embedding) != graph.centroids[2] or graph.centroids[1] == 0:
        return None
    clusters, weights = _resolve(graph.centroids, graph.largest, embedding, k, temperature)
    return Context(clusters, weights) if len(clusters) else None


def _entry(sources: int) -> Any:
    """`resolve_one` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def resolve(row, largest, embedding, k, temperature):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        if not is_direction(pointer(embedding), len(embedding)):
            return np.empty(0, np.int32), np.empty(0)
        return resolve_one(row, largest, embedding, k, temperature)

    return resolve


_resolve = _entry(fingerprint(numba_addresses, numba_context, numba_memory, sys.modules[__name__]))

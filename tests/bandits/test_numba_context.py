"""Resolving an embedding by compiled loops finds the clusters that the definition finds."""

import numpy as np
import pytest
from numba import njit

from bandits.context import resolve_embedding
from bandits.numba_addresses import addresses, row
from bandits.numba_context import is_direction, resolve_one
from bandits.numba_memory import pointer

_resolve_one = njit(resolve_one)


@pytest.mark.parametrize(("n_clusters", "dim"), [(1, 1), (3, 7), (8, 4), (300, 33), (1_000, 32), (40, 300)])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e18])
def test_compiled_resolving_is_the_definition(n_clusters: int, dim: int, scale: float) -> None:
    """Same clusters, ties to the lower one, same weights, whatever the magnitudes and where float32 overflows."""
    rng = np.random.default_rng(n_clusters * dim)
    centroids = (rng.normal(size=(n_clusters, dim)) * scale).astype(np.float32)
    centroids[n_clusters // 2 :: 3] = centroids[0]  # ties
    numbers = row([*addresses(centroids), n_clusters, dim])
    largest = float(np.abs(centroids).max())
    for number in range(40):
        embedding = (rng.normal(size=dim) * rng.choice([1.0, 1e-9, 1e20])).astype(np.float32)
        if number % 5 == 0:
            embedding = centroids[-1].copy()
        for k, temperature in ((1, 0.1), (10, 1.0), (64, 1e-3)):
            clusters, weights = _resolve_one(numbers, largest, embedding, k, temperature)
            defined = resolve_embedding(embedding, centroids, k=k, temperature=temperature)
            assert clusters.tolist() == defined.cluster_ids.tolist()
            assert weights.tolist() == defined.weights.tolist()


@njit
def _told(values):  # type: ignore[no-untyped-def]
    return is_direction(pointer(values), len(values))


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0], False), ([0, 1e-40], True), ([1, np.nan], False), ([np.inf, 0], False)]
)
def test_what_is_no_direction_is_told(values: list[float], expected: bool) -> None:
    """NaN, infinity and nothing at all are for the service to refuse."""
    assert _told(np.array(values, np.float32)) == expected

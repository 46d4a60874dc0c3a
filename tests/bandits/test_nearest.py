"""The largest inner products of many queries and keys."""

import numpy as np
import pytest

from bandits import nearest
from bandits.context import attach_items
from bandits.nearest import largest_products


def brute_force(queries, keys, k):
    products = np.array([(keys.astype(np.float64) * query).sum(axis=1) for query in queries])
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(products, order, axis=1)


def ordinary(rng, n, dim):
    return rng.standard_normal((n, dim)).astype(np.float32)


def tied(rng, n, dim):
    return np.round(ordinary(rng, n, dim))


def all_equal(rng, n, dim):
    return np.ones((n, dim), np.float32)


def sorted_by_first(rng, n, dim):
    rows = ordinary(rng, n, dim)
    return rows[np.argsort(rows[:, 0])]


def sample_is_too_good(rng, n, dim):
    """Every key that the sample looks at is large, and no other."""
    rows = np.abs(ordinary(rng, n, dim))
    rows[np.arange(n) % 4 != 0] *= -1
    return rows


def overflowing(rng, n, dim):
    return ordinary(rng, n, dim) * np.float32(5e37)


KINDS = [ordinary, tied, all_equal, sorted_by_first, sample_is_too_good, overflowing]


@pytest.mark.parametrize("pairs", [1, 200, 1 << 20])
@pytest.mark.parametrize("keys_of", KINDS)
def test_largest_products_are_those_of_brute_force(monkeypatch, keys_of, pairs):
    """Numbers and products equal a full float64 sort, however keys lie and blocks are cut."""
    for name, value in {"_KEYS": 64, "_QUERIES": 8, "_SAMPLE_EVERY": 4, "_PAIRS": pairs}.items():
        monkeypatch.setattr(nearest, name, value)
    rng = np.random.default_rng(7)
    for _ in range(25):
        dim, n_keys, n_queries = (int(rng.integers(1, high)) for high in (9, 400, 20))
        k = int(rng.integers(1, n_keys + 3))
        queries, keys = ordinary(rng, n_queries, dim), keys_of(rng, n_keys, dim)
        numbers, products = largest_products(queries, keys, k)
        expected_numbers, expected_products = brute_force(queries, keys, min(k, n_keys))
        np.testing.assert_array_equal(numbers, expected_numbers)
        np.testing.assert_allclose(products, expected_products, rtol=1e-12)


def test_edges_are_those_of_attach_items():
    """A corpus is joined to its clusters as the small graphs are."""
    rng = np.random.default_rng(3)
    items, centroids = ordinary(rng, 30_000, 16), ordinary(rng, 40, 16)
    edge_item, _ = attach_items(items, centroids, top_w=50)
    numbers, _ = largest_products(centroids, items, 50)
    np.testing.assert_array_equal(numbers.ravel(), edge_item)


def test_progress_ends_at_the_number_of_queries():
    """Progress counts queries, the last one too."""
    told = []
    largest_products(np.ones((600, 2)), np.ones((3, 2)), 1, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 600


@pytest.mark.parametrize(
    ("queries", "keys", "k", "message"),
    [
        ([[1.0]], [[1.0]], 0, "k: expected 1 or more"),
        ([1.0], [[1.0]], 1, r"queries: expected shape \(n, dim\)"),
        ([[1.0]], [[1.0, 2.0]], 1, "expected one dim, got 1 and 2"),
        ([[1.0]], [[1.0], [np.nan]], 1, r"keys\[1\]: expected finite"),
        ([[1e300]], [[1.0]], 1, r"queries\[0\]: expected finite"),
    ],
)
def test_wrong_rows_are_refused_by_name(queries, keys, k, message):
    """A wrong input is named, with what was expected."""
    with pytest.raises(ValueError, match=message):
        largest_products(queries, keys, k)

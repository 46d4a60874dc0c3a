"""The largest inner products of many queries with very many keys: the edges of a graph of a million items.

Invariant: the result is that of multiplying everything out in float64 and sorting, equal products by the lower key
number; blocks and the matrix library change how long it takes, never what comes out.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_SAMPLE_EVERY = 16
_QUERIES = 256  # of one block of products
_KEYS = 1 << 14
_PAIRS = 1 << 22  # of one block of contenders
_TERMS = 1 << 20  # of one block of exact products


def largest_products(
    queries: npt.ArrayLike, keys: npt.ArrayLike, k: int, *, progress: Callable[[int], None] = lambda done: None
) -> tuple[Int32, Float64]:
    """Numbers and inner products of the k keys nearest to each query.

    A float32 matrix product with a bound on its error finds the contenders, tile by tile against a threshold taken
    from a sample of the keys; only contenders are multiplied out, by exact products summed in float64 in one order.

    Args:
        queries: of shape (n_queries, dim), finite, taken as float32.
        keys: of shape (n_keys, dim), finite, taken as float32.
        k: 1 or more; clipped to n_keys.
        progress: told the number of queries done so far.

    Returns:
        Key numbers, int32, and products, float64, both of shape (n_queries, k), best first.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or `k` is out of range.

    Examples:
        >>> numbers, products = largest_products([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [2.0, 5.0]], 2)
        >>> numbers.tolist(), products.tolist()
        ([[1, 2]], [[2.0, 2.0]])
    """
    if k < 1:
        raise ValueError(f"k: expected 1 or more, got {k}")
    query_rows, key_rows = _rows("queries", queries), _rows("keys", keys)
    if query_rows.shape[1] != key_rows.shape[1]:
        raise ValueError(f"queries, keys: expected one dim, got {query_rows.shape[1]} and {key_rows.shape[1]}")
    k = min(k, len(key_rows))
    numbers = np.empty((len(query_rows), k), np.int32)
    products = np.empty((len(query_rows), k), np.float64)
    if numbers.size == 0:
        return numbers, products
    largest = float(max(key_rows.max(initial=0), -key_rows.min(initial=0)))
    for start in range(0, len(query_rows), _QUERIES):
        block = query_rows[start : start + _QUERIES]
        part = slice(start, start + len(block))
        numbers[part], products[part] = _best(block, key_rows, k, largest)
        progress(start + len(block))
    return numbers, products


def _best(block: Float32, keys: Float32, k: int, largest: float) -> tuple[Int32, Float64]:
    """Numbers and products of one block of queries; halved while it has too many contenders, as equal keys make."""
    contenders = _contenders(block, keys, k, largest)
    if contenders is None:
        middle = len(block) // 2
        halves = [_best(half, keys, k, largest) for half in (block[:middle], block[middle:])]
        return np.vstack([half[0] for half in halves]), np.vstack([half[1] for half in halves])
    query, key = contenders
    exact = _exact_products(block, keys, query, key)
    order = np.lexsort((key, -exact, query))
    first = np.searchsorted(query, np.arange(len(block)))
    picked = order[first[:, None] + np.arange(k)]
    return key[picked].astype(np.int32), exact[picked]


def _rows(name: str, values: npt.ArrayLike) -> Float32:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by name
        rows = np.ascontiguousarray(values, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"{name}: expected shape (n, dim), got {rows.shape}")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}[{np.argmin(finite)}]: expected finite values, got NaN or infinity")
    return rows


def _contenders(block: Float32, keys: Float32, k: int, largest: float) -> tuple[Int64, Int64] | None:
    """Pairs (query, key), by query, that hold every query's k largest products; None if they are too many."""
    # |rough - true| <= dim * 2^-24 * sum |u_i c_i| (Higham 2002, 3.1), to which underflow adds. Both the k-th and a
    # contender may be off by that; the rest of the factor covers the higher-order terms.
    magnitude = np.abs(block).sum(axis=1, dtype=np.float64) * largest
    slack = (keys.shape[1] + 2) * (magnitude * 2.0**-22 + 2.0**-120)
    slack[magnitude > 1e38] = np.inf  # float32 may have overflowed
    guess = _sampled_threshold(block, keys, k)
    pairs = _above(block, keys, _lowered(guess, slack), k)
    if pairs is None:
        return None
    query, key, rough = pairs
    reached = np.bincount(query[rough >= guess[query]], minlength=len(block))
    short = np.flatnonzero(reached < k)
    if len(short):  # a sample promises nothing
        exact_guess = _exact_threshold(block[short], keys, k)
        again = _above(block[short], keys, _lowered(exact_guess, slack[short]), k)
        if again is None:
            return None
        kept = reached[query] >= k
        query, key = np.concatenate((query[kept], short[again[0]])), np.concatenate((key[kept], again[1]))
        rough = np.concatenate((rough[kept], again[2]))
    order = np.lexsort((-rough, query))
    query, key, rough = query[order], key[order], rough[order]
    kth = rough[np.searchsorted(query, np.arange(len(block))) + k - 1]
    chosen = ~(rough < _lowered(kth, slack)[query])
    return query[chosen], key[chosen]


def _lowered(threshold: Float32, slack: Float64) -> Float32:
    """What a product may be and still truly reach the threshold; -inf where float32 cannot tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        lowered = np.nextafter((threshold.astype(np.float64) - slack).astype(np.float32), np.float32(-np.inf))
    return np.where(np.isfinite(lowered), lowered, np.float32(-np.inf))


def _sampled_threshold(block: Float32, keys: Float32, k: int) -> Float32:
    """A value that a few more than k products of most queries reach, float32 of shape (len(block),)."""
    sample = keys[::_SAMPLE_EVERY]
    expected = k / _SAMPLE_EVERY
    rank = int(np.ceil(expected + 4 * np.sqrt(expected) + 4))  # so that few queries have to start again
    if rank >= len(sample):
        return np.full(len(block), -np.inf, np.float32)
    return _kth_largest(block, sample, rank)


def _exact_threshold(block: Float32, keys: Float32, k: int) -> Float32:
    """The k-th largest rough product of each query, a few queries at a time."""
    step = max(1, _KEYS * _QUERIES // len(keys))
    parts = [_kth_largest(block[start : start + step], keys, k) for start in range(0, len(block), step)]
    return np.concatenate(parts)


def _kth_largest(block: Float32, keys: Float32, k: int) -> Float32:
    with np.errstate(over="ignore", invalid="ignore"):
        rough = block @ keys.T
    return np.partition(rough, len(keys) - k, axis=1)[:, len(keys) - k]


def _above(block: Float32, keys: Float32, lowest: Float32, k: int) -> tuple[Int64, Int64, Float32] | None:
    """Query, key and rough product wherever it is not below `lowest`; None if they would fill the memory."""
    most = max(_PAIRS, 4 * k * len(block)) if len(block) > 1 else len(keys)
    found: list[tuple[Int64, Int64, Float32]] = []
    for start in range(0, len(keys), _KEYS):
        with np.errstate(over="ignore", invalid="ignore"):
            rough = block @ keys[start : start + _KEYS].T
        at = np.flatnonzero(~(rough < lowest[:, None]))
        most -= len(at)
        if most < 0:
            return None
        query, key = np.divmod(at, rough.shape[1])
        found.append((query, key + start, rough.reshape(-1)[at]))
    query, key, products = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return query, key, products


def _exact_products(block: Float32, keys: Float32, query: Int64, key: Int64) -> Float64:
    """<block[query], keys[key]> of each pair: exact products, summed in float64 in an order set by dim alone."""
    exact = np.empty(len(query), np.float64)
    step = max(1, _TERMS // max(1, keys.shape[1]))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        exact[part] = (keys[key[part]].astype(np.float64) * block[query[part]]).sum(axis=1)
    return exact

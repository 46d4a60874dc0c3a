"""From a user to a sparse vector over clusters, and from items to the edges of the graph.

Invariants: the clusters of a `Context` ascend strictly; every weight is a multiple of 2^-15 within [2^-15, 1]. So
a weight survives float32, echoing it gives back the very x it was scored with, and no scored edge can have x = 0,
which would leave it unseen, with an infinite bound, however often it is shown. Nearest clusters and items depend
on the numbers alone: not on the batch, its blocking, nor the matrix library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.sums import UNIT

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

MAX_CLUSTERS = 64
_BLOCK_BYTES = 1 << 25  # of one block of inner products
_BLOCK_TERMS = 1 << 20  # of one block of exact products


class InvalidContext(ValueError):
    """A context that does not describe a user.

    Attributes:
        field: path of the bad value within the context, such as "cluster_ids[3]" or "values".
        expected: what would have been accepted.
        got: what came.
    """

    def __init__(self, field: str, expected: str, got: object) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = str(got)


@dataclass(frozen=True, eq=False)
class Context:
    """A user as a sparse vector over clusters.

    Attributes:
        cluster_ids: int32 of shape (K,), ascending strictly.
        weights: float64 of shape (K,), multiples of 2^-15 within [2^-15, 1].
    """

    cluster_ids: Int32
    weights: Float64


def fixed_point_weights(weights: npt.ArrayLike) -> Int64:
    """Fixed-point x = round-half-even(w * 2^15) of each weight, within [0, 2^15], int64 of the same shape.

    A positive weight has x >= 1: with x = 0 its edges could never leave the state of unseen.

    Args:
        weights: finite floats; float32 and float64 of the same number give the same x.

    Examples:
        >>> fixed_point_weights([0.5, 1.0, 1e-9, 0.0]).tolist()
        [16384, 32768, 1, 0]
    """
    values = np.asarray(weights, dtype=np.float64)
    smallest = values > 0  # 1 for something, 0 for nothing
    return np.minimum(np.maximum(np.rint(values * UNIT), smallest), UNIT).astype(np.int64)


def check_cluster_weights(
    cluster_ids: Sequence[int], weights: Sequence[float], *, n_clusters: int, max_clusters: int = MAX_CLUSTERS
) -> Context:
    """The context a caller sent as clusters and weights, in any order of clusters.

    Args:
        cluster_ids: 1 to `max_clusters` distinct numbers, 0 <= id < n_clusters.
        weights: parallel to `cluster_ids`, finite, 0 < w <= 1; rounded as by `fixed_point_weights`.
        n_clusters: number of clusters of the graph.
        max_clusters: the most clusters of one context.

    Raises:
        InvalidContext: naming the first bad value.
    """
    if not 1 <= len(cluster_ids) <= max_clusters:
        raise InvalidContext("cluster_ids", f"1 to {max_clusters} clusters", len(cluster_ids))
    if len(weights) != len(cluster_ids):
        raise InvalidContext("weights", f"{len(cluster_ids)} numbers, one per cluster id", len(weights))
    seen: set[int] = set()
    for at, cluster in enumerate(cluster_ids):
        if not isinstance(cluster, (int, np.integer)) or not 0 <= cluster < n_clusters:
            raise InvalidContext(f"cluster_ids[{at}]", f"an integer, 0 <= id < {n_clusters}", cluster)
        if cluster in seen:
            raise InvalidContext(f"cluster_ids[{at}]", "distinct clusters", f"{cluster} again")
        seen.add(int(cluster))
    for at, weight in enumerate(weights):
        if not 0 < weight <= 1:  # NaN compares false
            raise InvalidContext(f"weights[{at}]", "a number, 0 < weight <= 1", weight)
    ids = np.array(cluster_ids, dtype=np.int32)
    order = np.argsort(ids)
    return Context(ids[order], fixed_point_weights(weights)[order] / UNIT)


def resolve_embedding(embedding: npt.ArrayLike, centroids: Float32, *, k: int, temperature: float) -> Context:
    """The context of one user embedding; see `resolve_embeddings`.

    Args:
        embedding: of shape (dim,), finite, not all zero.
        centroids: float32 of shape (n_clusters, dim), finite.
        k: number of clusters of the context, 1 or more.
        temperature: tau > 0 of the softmax.

    Raises:
        InvalidContext: the embedding is not a finite direction of `dim` dimensions; its field is "values" or
            "values[i]".
        ValueError: `k` or `temperature` is out of range.
    """
    values = _as_float32(embedding)
    if values.ndim != 1:
        raise InvalidContext("values", "shape (dim,)", values.shape)
    _check_directions(values, centroids)
    ids, weights = resolve_embeddings(values[None, :], centroids, k=k, temperature=temperature)
    return Context(ids[0], weights[0])


def resolve_embeddings(
    embeddings: npt.ArrayLike, centroids: Float32, *, k: int, temperature: float
) -> tuple[Int32, Float64]:
    """Contexts of many user embeddings: the K centroids of highest <u, c>, weighted by softmax(<u, c> / tau).

    Embeddings are taken as float32, products are exact and summed in float64, equal products go to the lower
    cluster. The weights are rounded as by `fixed_point_weights`, so that they sum to 1 within K * 2^-15. (Section
    3.2 of Yi et al., RecSys 2023: sparse user-to-cluster affinities.)

    Args:
        embeddings: of shape (n, dim), finite, no row all zero.
        centroids: float32 of shape (n_clusters, dim), finite.
        k: number of clusters of each context, 1 or more; clipped to n_clusters.
        temperature: tau > 0 of the softmax.

    Returns:
        Cluster ids, int32 of shape (n, k), ascending in each row, and weights, float64 of shape (n, k).

    Raises:
        InvalidContext: a row is not a finite direction; its field is "values[row]" or "values[row][i]".
        ValueError: `k` or `temperature` is out of range.
    """
    if k < 1:
        raise ValueError(f"k: expected 1 or more, got {k}")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature: expected a finite number > 0, got {temperature}")
    values = _as_float32(embeddings)
    if values.ndim != 2:
        raise InvalidContext("values", "shape (n, dim)", values.shape)
    _check_directions(values, centroids)
    ids, products = _largest_products(values, centroids, k)
    with np.errstate(over="ignore"):  # a product so far below the best that its weight is nothing
        terms = np.exp((products - products[:, :1]) / temperature)
    weights = fixed_point_weights(np.maximum(terms / terms.sum(axis=1, keepdims=True), 1 / UNIT)) / UNIT
    order = np.argsort(ids, axis=1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(weights, order, axis=1)


def attach_items(item_embeddings: npt.ArrayLike, centroids: Float32, *, top_w: int) -> tuple[Int32, Int32]:
    """Edges of the graph: every centroid's top-W items by inner product, equal products to the lower item number.

    Memory is bounded by the inputs and one block of products; the whole (n_clusters, n_items) matrix never exists.

    Args:
        item_embeddings: of shape (n_items, dim), finite.
        centroids: float32 of shape (n_clusters, dim), finite.
        top_w: W, 1 or more; clipped to n_items.

    Returns:
        Item number and cluster number of each edge, both int32 of shape (n_clusters * top_w,); clusters ascend,
        within a cluster the best item comes first.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or `top_w` is out of range.
    """
    if top_w < 1:
        raise ValueError(f"top_w: expected 1 or more, got {top_w}")
    items = _as_float32(item_embeddings)
    if items.ndim != 2 or centroids.ndim != 2 or items.shape[1] != centroids.shape[1]:
        shapes = f"{items.shape} and {centroids.shape}"
        raise ValueError(f"item_embeddings, centroids: expected shapes (n, dim) of one dim, got {shapes}")
    for name, values in (("item_embeddings", items), ("centroids", centroids)):
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name}[{np.argmin(finite)}]: expected finite values, got NaN or infinity")
    edge_item, _ = _largest_products(np.asarray(centroids, np.float32), items, top_w)
    edge_cluster = np.repeat(np.arange(len(centroids), dtype=np.int32), edge_item.shape[1])
    return edge_item.ravel(), edge_cluster


def _as_float32(values: npt.ArrayLike) -> Float32:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by name
        return np.ascontiguousarray(values, dtype=np.float32)


def _check_directions(values: Float32, centroids: Float32) -> None:
    """Raise InvalidContext unless `values`, one embedding or rows of them, are directions in centroid space."""
    n_clusters, dim = centroids.shape
    if n_clusters == 0 or dim == 0:
        raise InvalidContext("values", "cluster weights, as this graph has no centroids", "an embedding")
    if values.shape[-1] != dim:
        raise InvalidContext("values", f"{dim} numbers (dimensions of the graph's centroids)", values.shape[-1])
    for finite, expected in ((np.isfinite(values), "a finite float32"), (values.any(axis=-1), "not all zero")):
        if not finite.all():
            at = tuple(np.argwhere(~finite)[0])
            field = "values" + "".join(f"[{i}]" for i in at)
            raise InvalidContext(field, expected, values[at] if len(at) == values.ndim else "zeros only")


def _largest_products(queries: Float32, keys: Float32, k: int) -> tuple[Int32, Float64]:
    """Numbers and inner products of the k keys nearest to each query, best first, equal ones by number.

    A float32 matrix product finds the contenders with a bound on its error; only they are multiplied out, each by
    the same sum in float64. So two equal keys always tie, which in a blocked matrix product they need not.
    """
    k = min(k, len(keys))
    numbers = np.empty((len(queries), k), np.int32)
    products = np.empty((len(queries), k), np.float64)
    if numbers.size == 0:
        return numbers, products
    largest = float(max(keys.max(initial=0), -keys.min(initial=0)))
    rows = max(1, _BLOCK_BYTES // (keys.itemsize * len(keys)))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        query, key = _contenders(block, keys, k, largest)
        exact = _exact_products(block, keys, query, key)
        order = np.lexsort((key, -exact, query))
        first = np.searchsorted(query, np.arange(len(block)))
        picked = order[first[:, None] + np.arange(k)]
        numbers[start : start + rows] = key[picked]
        products[start : start + rows] = exact[picked]
    return numbers, products


def _contenders(block: Float32, keys: Float32, k: int, largest: float) -> tuple[Int64, Int64]:
    """Pairs (query, key), by query, that hold every query's k largest products; at least k a query."""
    dim = keys.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        rough = block @ keys.T
        kth = np.partition(rough, len(keys) - k, axis=1)[:, len(keys) - k].astype(np.float64)
        # |rough - true| <= dim * 2^-24 * sum |u_i c_i| (Higham 2002, 3.1), to which underflow adds. Both the k-th
        # and a contender may be off by that; the rest of the factor covers the higher-order terms.
        magnitude = np.abs(block).sum(axis=1, dtype=np.float64) * largest
        threshold = kth - (dim + 2) * (magnitude * 2.0**-22 + 2.0**-120)
        threshold[magnitude > 1e38] = -np.inf  # float32 may have overflowed
        lowest = np.nextafter(threshold.astype(np.float32), np.float32(-np.inf))
    query, key = np.nonzero(~(rough < lowest[:, None]))
    return query, key


def _exact_products(block: Float32, keys: Float32, query: Int64, key: Int64) -> Float64:
    """<block[query], keys[key]> of each pair: exact products, added in float64 from first to last."""
    exact = np.empty(len(query), np.float64)
    step = max(1, _BLOCK_TERMS // max(1, keys.shape[1]))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        terms = keys[key[part]].astype(np.float64) * block[query[part]]
        exact[part] = np.add.accumulate(terms, axis=1, out=terms)[:, -1]
    return exact

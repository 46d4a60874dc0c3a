"""Contexts: from embeddings and from callers' clusters, and the edges of the graph."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bandits.context
from bandits.context import (
    InvalidContext,
    attach_items,
    check_cluster_weights,
    fixed_point_weights,
    resolve_embedding,
    resolve_embeddings,
)
from bandits.graph import build_graph
from bandits.sums import UNIT


def nearest_by_hand(query: np.ndarray, keys: np.ndarray, k: int) -> list[int]:
    """The k keys of highest inner product, in rational arithmetic, equal ones by number."""
    products = [
        sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, key, strict=True)) for key in keys
    ]
    return sorted(range(len(keys)), key=lambda number: (-products[number], number))[:k]


def weights_by_hand(query: np.ndarray, keys: np.ndarray, ids: np.ndarray, temperature: float) -> np.ndarray:
    products = keys[ids].astype(np.longdouble) @ query.astype(np.longdouble) / temperature
    terms = np.exp(products - products.max())
    return (terms / terms.sum()).astype(np.float64)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a few rows take several."""
    monkeypatch.setattr(bandits.context, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(bandits.context, "_BLOCK_TERMS", 50)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 64, 200])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_resolved_clusters_are_the_nearest_of_all(dim: int, scale: float) -> None:
    """The K clusters of highest inner product are found at any magnitude a float32 can have."""
    rng = np.random.default_rng(dim)
    centroids = (rng.normal(size=(90, dim)) * scale).astype(np.float32)
    for embedding in (rng.normal(size=(5, dim)) * scale).astype(np.float32):
        context = resolve_embedding(embedding, centroids, k=10, temperature=0.7)
        assert context.cluster_ids.tolist() == sorted(nearest_by_hand(embedding, centroids, 10))
        assert context.cluster_ids.dtype == np.int32
        assert context.weights.dtype == np.float64


def test_near_ties_are_decided_exactly() -> None:
    """Clusters that differ by less than float32 can sum are still ranked by what they are."""
    rng = np.random.default_rng(9)
    centroids = (1 + 2e-7 * rng.normal(size=(150, 64))).astype(np.float32)
    for embedding in rng.normal(size=(5, 64)).astype(np.float32):
        context = resolve_embedding(embedding, centroids, k=40, temperature=1.0)
        assert context.cluster_ids.tolist() == sorted(nearest_by_hand(embedding, centroids, 40))


@given(data=st.data(), k=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_ties_go_to_the_lowest_cluster(data: st.DataObject, k: int) -> None:
    """Equal inner products never depend on how a matrix product is blocked: the lower number wins."""
    few = st.sampled_from([-1.0, -0.1, 0.0, 0.1, 0.3, 3e7])
    row = st.lists(few, min_size=9, max_size=9)
    centroids = np.array(data.draw(st.lists(row, min_size=1, max_size=30)), np.float32)
    embedding = np.array(data.draw(row.filter(any)), np.float32)
    copies = np.tile(centroids, (3, 1))
    context = resolve_embedding(embedding, copies, k=k, temperature=1.0)
    assert context.cluster_ids.tolist() == sorted(nearest_sum(embedding, copies)[:k])


def nearest_sum(embedding: np.ndarray, centroids: np.ndarray) -> list[int]:
    products = np.cumsum(centroids.astype(np.float64) * embedding, axis=1)[:, -1]  # in the stated order
    return sorted(range(len(centroids)), key=lambda c: (-products[c], c))


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 50.0])
def test_weights_are_the_softmax_rounded_once(temperature: float) -> None:
    """Weights are softmax(<u, c> / tau) to the nearest 2^-15, and never less than 2^-15."""
    rng = np.random.default_rng(5)
    centroids = rng.normal(size=(200, 16)).astype(np.float32)
    for embedding in rng.normal(size=(20, 16)).astype(np.float32):
        context = resolve_embedding(embedding, centroids, k=8, temperature=temperature)
        exact = np.maximum(weights_by_hand(embedding, centroids, context.cluster_ids, temperature), 1 / UNIT)
        assert np.abs(context.weights - exact).max() <= 0.5 / UNIT + 1e-12
        assert context.weights.min() >= 1 / UNIT
        assert abs(context.weights.sum() - 1) <= 8 / UNIT


@pytest.mark.parametrize("temperature", [5e-324, 1e-9, 1e300])
def test_the_softmax_is_stable(temperature: float) -> None:
    """No temperature and no magnitude gives NaN, infinity, zero or a sum away from one."""
    centroids = np.array([[3e38, 0], [1, 1], [0, -3e38], [1e-38, 0]], np.float32)
    for embedding in ([3e38, 3e38], [1.0, -1.0], [1e-45, 0], [-3e38, 0]):
        context = resolve_embedding(embedding, centroids, k=4, temperature=temperature)
        assert abs(context.weights.sum() - 1) <= 4 / UNIT
        assert context.weights.min() >= 1 / UNIT


@pytest.mark.usefixtures("small_blocks")
@given(seed=st.integers(0, 2**32), n=st.integers(0, 9), k=st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_a_batch_resolves_as_its_rows_do(seed: int, n: int, k: int) -> None:
    """A context does not depend on the batch it came in: replaying in other batches gives the same bits."""
    rng = np.random.default_rng(seed)
    centroids = np.repeat(rng.normal(size=(25, 11)), 2, axis=0).astype(np.float32)
    embeddings = rng.normal(size=(n, 11)).astype(np.float32)
    ids, weights = resolve_embeddings(embeddings, centroids, k=k, temperature=0.5)
    assert ids.shape == weights.shape == (n, min(k, 50))
    assert ids.dtype == np.int32
    for row in range(n):
        one = resolve_embedding(embeddings[row], centroids, k=k, temperature=0.5)
        assert np.array_equal(ids[row], one.cluster_ids)
        assert np.array_equal(weights[row], one.weights)


def test_an_echoed_context_learns_what_was_scored() -> None:
    """A caller who echoes the weights as float32 gives back the same context and the very x of the reply."""
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(100, 8)).astype(np.float32)
    ids, weights = resolve_embeddings(rng.normal(size=(200, 8)), centroids, k=16, temperature=0.4)
    assert np.array_equal(weights.astype(np.float32).astype(np.float64), weights)
    assert np.array_equal(fixed_point_weights(weights) / UNIT, weights)
    for row in range(200):
        echo = weights[row].astype(np.float32)
        context = check_cluster_weights(ids[row].tolist(), echo.tolist(), n_clusters=100)
        assert np.array_equal(context.cluster_ids, ids[row])
        assert np.array_equal(context.weights, weights[row])


@pytest.mark.parametrize(
    ("embedding", "field", "expected", "got"),
    [
        ([1.0, float("nan"), 0.0], "values[1]", "a finite float32", "nan"),
        ([1.0, 0.0, float("-inf")], "values[2]", "a finite float32", "-inf"),
        ([1e300, 0.0, 0.0], "values[0]", "a finite float32", "inf"),
        ([1.0, 2.0], "values", "3 numbers", "2"),
        ([], "values", "3 numbers", "0"),
        ([0.0, -0.0, 0.0], "values", "not all zero", "zeros only"),
        ([[1.0, 2.0, 3.0]], "values", "shape (dim,)", "(1, 3)"),
    ],
)
def test_an_embedding_that_is_no_direction_is_refused(embedding: list, field: str, expected: str, got: str) -> None:
    """A NaN in a request is refused at the edge, by name, and never reaches a score."""
    with pytest.raises(InvalidContext) as caught:
        resolve_embedding(embedding, np.eye(3, dtype=np.float32), k=2, temperature=1.0)
    error = caught.value
    assert (error.field, error.got) == (field, got)
    assert expected in error.expected
    assert str(error) == f"{error.field}: expected {error.expected}, got {error.got}"


def test_a_bad_row_of_a_batch_is_named() -> None:
    """One bad user among many is found."""
    centroids = np.eye(3, dtype=np.float32)
    embeddings = np.ones((5, 3))
    embeddings[3, 1] = np.nan
    with pytest.raises(InvalidContext, match=re.escape("values[3][1]: expected a finite float32, got nan")):
        resolve_embeddings(embeddings, centroids, k=2, temperature=1.0)
    embeddings[3] = 0
    with pytest.raises(InvalidContext, match=re.escape("values[3]: expected not all zero, got zeros only")):
        resolve_embeddings(embeddings, centroids, k=2, temperature=1.0)


@pytest.mark.parametrize("shape", [(5, 0), (0, 3), (0, 0)])
def test_a_graph_without_centroids_resolves_no_embedding(shape: tuple[int, int]) -> None:
    """Where callers send cluster weights only, an embedding is refused with what to send instead."""
    with pytest.raises(InvalidContext, match=r"values: expected cluster weights, as this graph has no centroids"):
        resolve_embedding(np.ones(shape[1]), np.empty(shape, np.float32), k=2, temperature=1.0)


@pytest.mark.parametrize(
    ("k", "temperature"), [(0, 1.0), (-1, 1.0), (3, 0.0), (3, -1.0), (3, float("nan")), (3, float("inf"))]
)
def test_settings_out_of_range_are_refused(k: int, temperature: float) -> None:
    """A wrong setting is no fault of the request."""
    with pytest.raises(ValueError, match=r"k: expected|temperature: expected") as caught:
        resolve_embedding([1.0, 2.0, 3.0], np.eye(3, dtype=np.float32), k=k, temperature=temperature)
    assert not isinstance(caught.value, InvalidContext)


@given(
    pairs=st.dictionaries(
        st.integers(0, 999), st.floats(0, 1, exclude_min=True, width=32), min_size=1, max_size=64
    ).map(lambda d: list(d.items())),
)
@settings(max_examples=100, deadline=None)
def test_callers_weights_are_taken_in_any_order(pairs: list[tuple[int, float]]) -> None:
    """Clusters come out ascending, each with its own weight to the nearest 2^-15 but never nothing."""
    context = check_cluster_weights([c for c, _ in pairs], [w for _, w in pairs], n_clusters=1000)
    assert context.cluster_ids.tolist() == sorted(c for c, _ in pairs)
    assert context.cluster_ids.dtype == np.int32
    for cluster, weight in zip(context.cluster_ids.tolist(), context.weights.tolist(), strict=True):
        assert weight * UNIT == max(1, round(Fraction(dict(pairs)[cluster]) * UNIT))


@pytest.mark.parametrize(
    ("cluster_ids", "weights", "field", "got"),
    [
        ([], [], "cluster_ids", "0"),
        ([], [0.5], "cluster_ids", "0"),
        (list(range(65)), [0.01] * 65, "cluster_ids", "65"),
        ([1, 2], [0.5], "weights", "1"),
        ([1], [0.5, 0.5], "weights", "2"),
        ([1, 100], [0.5, 0.5], "cluster_ids[1]", "100"),
        ([-1, 2], [0.5, 0.5], "cluster_ids[0]", "-1"),
        ([1, 2**70], [0.5, 0.5], "cluster_ids[1]", str(2**70)),
        ([1, 2.5], [0.5, 0.5], "cluster_ids[1]", "2.5"),
        ([4, 5, 4], [0.5] * 3, "cluster_ids[2]", "4 again"),
        ([4, 5], [0.5, 0.0], "weights[1]", "0.0"),
        ([4, 5], [-0.5, 0.5], "weights[0]", "-0.5"),
        ([4, 5], [0.5, 1.0000001], "weights[1]", "1.0000001"),
        ([4, 5], [float("nan"), 0.5], "weights[0]", "nan"),
        ([4, 5], [0.5, float("inf")], "weights[1]", "inf"),
    ],
)
def test_bad_cluster_weights_are_refused_by_field(cluster_ids: list, weights: list, field: str, got: str) -> None:
    """A caller learns which element is wrong, what was expected and what came."""
    with pytest.raises(InvalidContext) as caught:
        check_cluster_weights(cluster_ids, weights, n_clusters=100)
    assert (caught.value.field, caught.value.got) == (field, got)


def test_fixed_point_rounds_half_to_even_and_stays_in_range() -> None:
    """x is w to the nearest 2^-15, equal for float32 and float64, at most 2^15, and nothing only for nothing."""
    units = np.array([0, 0.25, 0.5, 1, 1.5, 2.5, 3.5, 3.499, 32766.5, 32767.5, 32768, 40000, -3])
    expected = [0, 1, 1, 1, 2, 2, 4, 3, 32766, 32768, 32768, 32768, 0]
    assert fixed_point_weights(units / UNIT).tolist() == expected
    weights = np.random.default_rng(0).random(1000).astype(np.float32)
    assert np.array_equal(fixed_point_weights(weights), fixed_point_weights(weights.astype(np.float64)))
    assert fixed_point_weights(weights).dtype == np.int64


def edges_by_hand(items: np.ndarray, centroids: np.ndarray, top_w: int) -> list[tuple[int, int]]:
    return [(item, c) for c, centroid in enumerate(centroids) for item in nearest_by_hand(centroid, items, top_w)]


@pytest.mark.parametrize("top_w", [1, 3, 1000])
def test_edges_are_each_centroids_best_items(top_w: int) -> None:
    """An edge exists where an item is among the top-W of a centroid, equal products to the lower item number."""
    rng = np.random.default_rng(top_w)
    items = rng.integers(-2, 3, size=(40, 5)).astype(np.float32)  # small integers: many exact ties
    centroids = rng.integers(-2, 3, size=(12, 5)).astype(np.float32)
    edge_item, edge_cluster = attach_items(items, centroids, top_w=top_w)
    assert list(zip(edge_item.tolist(), edge_cluster.tolist(), strict=True)) == edges_by_hand(
        items, centroids, top_w
    )
    graph = build_graph(
        version="v",
        centroids=centroids,
        item_ids=[f"{i}" for i in range(40)],
        edge_item=edge_item,
        edge_cluster=edge_cluster,
    )
    assert graph.n_edges == 12 * min(top_w, 40)


def test_edges_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a graph in less memory, or elsewhere, gives the same edges."""
    rng = np.random.default_rng(3)
    items = np.repeat(rng.normal(size=(150, 24)), 2, axis=0).astype(np.float32)
    centroids = rng.normal(size=(30, 24)).astype(np.float32)
    whole = attach_items(items, centroids, top_w=31)
    for size in (1, 4 * 300 * 7, 4 * 300 * 29):
        monkeypatch.setattr(bandits.context, "_BLOCK_BYTES", size)
        monkeypatch.setattr(bandits.context, "_BLOCK_TERMS", size)
        assert all(
            np.array_equal(a, b) for a, b in zip(attach_items(items, centroids, top_w=31), whole, strict=True)
        )


def test_no_items_or_no_clusters_make_no_edges() -> None:
    """An empty catalogue is a graph too."""
    for n_items, n_clusters in ((0, 3), (3, 0), (0, 0)):
        items, centroids = np.ones((n_items, 2)), np.ones((n_clusters, 2), np.float32)
        edge_item, edge_cluster = attach_items(items, centroids, top_w=5)
        assert len(edge_item) == len(edge_cluster) == 0


def test_items_that_cannot_be_attached_are_refused() -> None:
    """A wrong dimension or a NaN ends the build with the row's number, not in an arbitrary graph."""
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=re.escape("got (2, 4) and (3, 3)")):
        attach_items(np.ones((2, 4)), eye, top_w=1)
    with pytest.raises(ValueError, match=re.escape("item_embeddings[1]: expected finite")):
        attach_items([[1, 2, 3], [1, np.nan, 3]], eye, top_w=1)
    with pytest.raises(ValueError, match=re.escape("centroids[0]: expected finite")):
        attach_items(eye, np.full((3, 3), np.inf, np.float32), top_w=1)
    with pytest.raises(ValueError, match="top_w: expected 1 or more, got 0"):
        attach_items(eye, eye, top_w=0)

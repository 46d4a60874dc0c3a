"""k-means as a GPU does it: the same code on NumPy's arrays everywhere, on CuPy's where there is a GPU."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bandits.cupy_device import DeviceUnusable, NoDevice, find_cupy
from streams.corpus.array_k_means import spherical_k_means
from streams.corpus.clusters import ClusterSettings, cluster_users
from streams.corpus.errors import CorpusError, MissingLibrary
from streams.logs.event_log import unit_rows


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """A library of arrays."""
    if request.param == "numpy":
        return np
    try:
        return find_cupy()
    except DeviceUnusable:
        raise
    except NoDevice as error:
        pytest.skip(f"no GPU: {error}")


def mixture(count: int, *, seed: int, groups: int = 8, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).standard_normal((groups, dim))
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count)
    return unit_rows((centres[group] + 0.1 * rng.standard_normal((count, dim))).astype(np.float32)), group


def run(xp: Any, points: np.ndarray, start: np.ndarray, iterations: int = 5) -> np.ndarray:
    return spherical_k_means(xp, points, start, iterations=iterations, progress=lambda done: None)


def test_an_iteration_is_the_mean_direction_of_each_cluster(xp: Any) -> None:
    """Equal to a loop over clusters in float64, to float32's precision; lengths are 1."""
    points, _ = mixture(500, seed=1)
    start = points[:8].copy()
    owner = (points @ start.T).argmax(axis=1)
    expected = np.stack([points[owner == number].astype(np.float64).sum(axis=0) for number in range(8)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    centroids = run(xp, points, start, 1)
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(centroids, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-6)


def test_the_same_points_and_start_give_the_same_bytes(xp: Any) -> None:
    """Nothing is added in an order that a device might choose."""
    points, _ = mixture(3000, seed=2)
    first = run(xp, points, points[:40].copy())
    assert first.tobytes() == run(xp, points, points[:40].copy()).tobytes()


def test_points_in_another_order_have_the_same_centroids() -> None:
    """Sums are exact; only products could depend on where a point stands, and NumPy's do not here."""
    points, _ = mixture(400, seed=3, dim=3)
    order = np.random.default_rng(1).permutation(400)
    start = points[:5].copy()
    np.testing.assert_array_equal(run(np, points, start, 1), run(np, points[order], start, 1))


def test_groups_are_found(xp: Any) -> None:
    """From a start within each group, every point ends with its own."""
    points, group = mixture(800, seed=4)
    start = np.stack([points[group == number][0] for number in range(8)])
    centroids = run(xp, points, start)
    found = (points @ centroids.T).argmax(axis=1)
    assert np.mean(found == group) > 0.95


def test_a_cluster_that_lost_its_points_goes_to_the_worst_served(xp: Any) -> None:
    """It takes the point that is furthest from its centroid; no centroid is lost."""
    points = unit_rows(np.array([[1, 0], [0.99, 0.1], [0.98, -0.1], [0, 1]], np.float32))
    start = unit_rows(np.array([[1, 0.01], [-1, 0.0]], np.float32))
    centroids = run(xp, points, start, 1)
    np.testing.assert_allclose(centroids[1], points[3], atol=1e-6)
    assert (centroids.any(axis=1)).all()


def test_products_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few fit at a time, the result is the same."""
    points, _ = mixture(300, seed=5)
    whole = run(np, points, points[:10].copy())
    monkeypatch.setattr("streams.corpus.array_k_means._PRODUCTS", 70)
    np.testing.assert_array_equal(run(np, points, points[:10].copy()), whole)


def pretended_cupy(count: int = 1, **changes: Any) -> ModuleType:
    """NumPy under another name, as CuPy with so many devices."""
    fake = ModuleType("cupy")
    vars(fake).update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
    fake.asnumpy = np.asarray  # type: ignore[attr-defined]
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(getDeviceCount=lambda: count)
    )
    vars(fake).update(changes)
    return fake


def test_build_graph_clusters_on_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and by itself; the progress is told; what goes in and comes out is as of the other library."""
    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy())
    points, _ = mixture(400, seed=6)
    told: list[int] = []
    settings = ClusterSettings(n_clusters=8, seed=3, iterations=4, library="cupy")
    centroids = cluster_users(points * 3, settings, progress=told.append)
    assert told == [1, 2, 3, 4]
    assert type(centroids) is np.ndarray
    assert (centroids.dtype, centroids.shape) == (np.float32, (8, 6))
    by_itself = cluster_users(points * 3, ClusterSettings(n_clusters=8, seed=3, iterations=4))
    assert by_itself.tobytes() == centroids.tobytes()


def test_without_a_gpu_faiss_clusters_unless_cupy_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that was asked for and is not there is an error; one that nobody asked for is not."""
    pytest.importorskip("faiss")
    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy(count=0))
    points, _ = mixture(400, seed=6)
    plain = cluster_users(points, ClusterSettings(n_clusters=8, iterations=2, library="faiss"))
    assert cluster_users(points, ClusterSettings(n_clusters=8, iterations=2)).tobytes() == plain.tobytes()
    with pytest.raises(MissingLibrary, match="k-means on a GPU: CuPy finds no device"):
        cluster_users(points, ClusterSettings(n_clusters=8, library="cupy"))


def test_users_that_do_not_fit_into_the_gpu_are_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of device memory, as CuPy tells it."""

    def full(*_: Any) -> None:
        raise MemoryError("Out of memory allocating 512 bytes")

    monkeypatch.setitem(sys.modules, "cupy", pretended_cupy(asarray=full))
    with pytest.raises(CorpusError, match=r"Out of memory allocating 512 bytes.*faiss"):
        cluster_users(mixture(100, seed=1)[0], ClusterSettings(n_clusters=8, library="cupy"))

"""Clusters of users: spherical k-means over a sample of their embeddings, by faiss or, on a GPU, by CuPy.

Invariants: centroids have length 1, so that a user's nearest centroids by inner product are the nearest by angle
and no cluster is favoured for its length; the same users, settings and seed give the same bytes, whatever the
number of threads (for one build of the same library on one kind of processor or GPU).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bandits.cupy_device import NoDevice, find_cupy
from bandits.graph import Float32
from streams.corpus.array_k_means import spherical_k_means
from streams.corpus.errors import CorpusError, MissingLibrary, optional_library
from streams.logs.event_log import unit_rows

USERS_PER_CLUSTER = 50  # of the sample; fewer than 39 is too few by the library's own rule of thumb


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How users are clustered.

    Attributes:
        n_clusters: C, 1 or more.
        seed: of the sample and of the first centroids, 0 <= seed < 2^31.
        iterations: of Lloyd's algorithm, 1 or more.
        sample: most users to look at.
        library: "faiss", "cupy", or "auto": CuPy where it is installed and finds a GPU, else faiss.
    """

    n_clusters: int
    seed: int = 0
    iterations: int = 10
    sample: int = 0
    library: Literal["auto", "faiss", "cupy"] = "auto"

    @property
    def most_users(self) -> int:
        """Size of the sample: as set, or 50 users a cluster."""
        return self.sample or USERS_PER_CLUSTER * self.n_clusters


def cluster_users(
    users: Float32,
    settings: ClusterSettings,
    *,
    start: Float32 | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Float32:
    """Centroids of user embeddings, float32 of shape (n_clusters, dim), each of length 1.

    Args:
        users: float32 of shape (n_users, dim), finite, no row all zero.
        settings: number of clusters, seed, effort.
        start: centroids to begin with, float32 of shape (n_clusters, dim); None = distinct users, drawn.
        progress: told the iterations done so far.

    Raises:
        CorpusError: a user has no direction, there are fewer distinct directions than clusters, or the users do not
            fit into the memory of the GPU.
        MissingLibrary: faiss is not installed, or CuPy was asked for and finds no GPU.
    """
    library = _library(settings.library)
    rng = np.random.default_rng(settings.seed)
    points = unit_rows(sample_users(users, settings.most_users, rng))
    if not points.any(axis=1).all():
        raise CorpusError(f"users: expected directions, got {int((~points.any(axis=1)).sum())} rows of zeros")
    if start is not None and start.shape != (settings.n_clusters, points.shape[1]):
        raise CorpusError(f"start: expected shape {(settings.n_clusters, points.shape[1])}, got {start.shape}")
    if len(points) < settings.n_clusters:
        raise CorpusError(f"users: expected {settings.n_clusters} or more (clusters), got {len(points)}")
    centroids = _first_centroids(points, settings.n_clusters, rng) if start is None else unit_rows(start)
    if len(points) == settings.n_clusters:
        return centroids
    if library.__name__ != "faiss":
        return _on_gpu(library, points, centroids, settings, progress)
    for iteration in range(settings.iterations):
        # One iteration a call: the library reports no progress of its own.
        means = library.Kmeans(
            points.shape[1],
            settings.n_clusters,
            niter=1,
            spherical=True,
            seed=settings.seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(points),
        )
        means.train(points, init_centroids=centroids)
        centroids = unit_rows(means.centroids)
        progress(iteration + 1)
    return _checked(centroids)


def _library(name: str) -> Any:
    """The module that clusters."""
    if name != "faiss":
        try:
            return find_cupy()
        except NoDevice as error:
            if name == "cupy":
                raise MissingLibrary(f"k-means on a GPU: {error}") from error
    return optional_library("faiss", needed_for="k-means", extra="graph")


def _on_gpu(
    library: Any, points: Float32, start: Float32, settings: ClusterSettings, progress: Callable[[int], None]
) -> Float32:
    try:
        return _checked(
            spherical_k_means(library, points, start, iterations=settings.iterations, progress=progress)
        )
    except MemoryError as error:
        raise CorpusError(f"users: expected to fit into the GPU's memory, got {error}; cluster by faiss") from error


def _checked(centroids: Float32) -> Float32:
    if not centroids.any(axis=1).all():
        raise CorpusError("users: expected clusters with a direction, got users that cancel each other out")
    return centroids


def sample_users(users: Float32, most: int, rng: np.random.Generator) -> Float32:
    """At most so many users, drawn without replacement, in the order of the file."""
    if len(users) <= most:
        return users
    return users[np.sort(rng.choice(len(users), most, replace=False))]


def _first_centroids(points: Float32, n_clusters: int, rng: np.random.Generator) -> Float32:
    """Distinct points in random order: equal ones would make clusters without users."""
    chosen = points[rng.permutation(len(points))[:n_clusters]]
    if len(np.unique(chosen, axis=0)) == n_clusters:
        return chosen
    distinct = np.unique(points, axis=0)
    if len(distinct) < n_clusters:
        raise CorpusError(f"users: expected {n_clusters} distinct directions or more, got {len(distinct)}")
    return distinct[rng.permutation(len(distinct))[:n_clusters]]

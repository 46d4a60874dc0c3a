"""The fixed environment on which policies are compared by regret, and its streams of contexts.

Invariants: the same arrays from the same seeds (NumPy's PCG64 and the order of draws are part of the definition);
arrays are read-only; a context's weights sum to 1, the nearest cluster first.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.simulator.world import affinity, directions, spread

Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]

CLUSTERS, ITEMS, DIM, WIDTH = 50, 500, 16, 50
MAX_SLATE = 5  # uniforms drawn for each round
_FIRST_STREAM = 1000


@dataclass(frozen=True, eq=False)
class Environment:
    """Clusters, items and what is clicked.

    Attributes:
        centroids: float64 of shape (50, 16).
        theta: click probability of cluster and item, float64 of shape (50, N).
        lists: items with an edge to each cluster, ascending, int32 of shape (50, W).
        place: where an item stands in a cluster's list, or -1, int32 of shape (50, N).
    """

    centroids: Float64
    theta: Float64
    lists: Int32
    place: Int32


@dataclass(frozen=True, eq=False)
class Stream:
    """Contexts of T rounds and the draws that decide the clicks.

    Attributes:
        clusters: int32 of shape (T, K), nearest first.
        weights: float64 of shape (T, K).
        uniforms: float64 of shape (T, 5); slot z of round t is clicked iff uniforms[t, z] < p.
    """

    clusters: Int32
    weights: Float64
    uniforms: Float64


def environment(seed: int = 0, *, items: int = ITEMS, width: int = WIDTH) -> Environment:
    """The environment; seed 0 with 500 items and 50 edges a cluster is the one whose numbers are published.

    theta = clip((0.02 + 0.38 sigmoid(10 (cos - 0.45))) exp(0.3 z), 0.005, 0.6); the edges of a cluster go to the
    W items of largest cos + 0.1 z'.

    Args:
        seed: of all draws.
        items: N.
        width: W, edges of a cluster, 1 to N.
    """
    rng = np.random.default_rng(seed)
    centroids = directions(rng.standard_normal((CLUSTERS, DIM)))
    vectors = directions(rng.standard_normal((items, DIM)))
    cosine = centroids @ vectors.T
    theta = spread(affinity(cosine), 0.3, rng.standard_normal((CLUSTERS, items)))
    blurred = cosine + 0.1 * rng.standard_normal((CLUSTERS, items))
    lists = np.sort(np.argsort(-blurred, axis=1)[:, :width], axis=1).astype(np.int32)
    place = np.full((CLUSTERS, items), -1, np.int32)
    np.put_along_axis(place, lists, np.arange(width, dtype=np.int32)[None, :], axis=1)
    made = Environment(centroids, theta, lists, place)
    for array in (centroids, theta, lists, place):
        array.flags.writeable = False
    return made


def stream(world: Environment, seed: int, rounds: int, k: int) -> Stream:
    """Contexts of a seed; the first rounds of a longer stream are not those of a shorter one.

    Args:
        world: whose centroids the users are around.
        seed: seeds from 1000 on are used by no published number.
        rounds: T.
        k: clusters of a context, K, 1 to 50; with 1 contexts are one-hot.
    """
    rng = np.random.default_rng(_FIRST_STREAM + seed)
    home = rng.integers(0, CLUSTERS, rounds)
    users = directions(world.centroids[home] + 0.35 * rng.standard_normal((rounds, DIM)))
    uniforms = rng.random((rounds, MAX_SLATE))
    products = users @ world.centroids.T
    clusters = np.argsort(-products, axis=1)[:, :k].astype(np.int32)
    nearest = np.take_along_axis(products, clusters, axis=1)
    terms = np.exp((nearest - nearest[:, :1]) / 0.1)
    made = Stream(clusters, terms / terms.sum(axis=1, keepdims=True), uniforms)
    for array in (made.clusters, made.weights, made.uniforms):
        array.flags.writeable = False
    return made

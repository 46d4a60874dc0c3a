"""A world of users and items with known click probabilities, the same for the same seed and sizes.

Invariants: centroids, items and users are directions of unit length; every probability lies within [0.005, 0.6];
`theta(step)` is a pure function of seed and step, whatever was asked before; the contexts of users are those a
server with the same centroids resolves from their embeddings.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.context import attach_items, resolve_embeddings

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LOWEST, HIGHEST = 0.005, 0.6  # click probability
_PLACES, _TASTES, _ARRIVALS = 0, 1, 2  # independent draws of one seed


def affinity(cosine: Float64) -> Float64:
    """Click probability of a cluster and an item at a cosine, before the spread of tastes."""
    return 0.02 + 0.38 / (1.0 + np.exp(-10.0 * (cosine - 0.45)))


def spread(base: Float64, deviation: float, tastes: Float64) -> Float64:
    """Click probabilities around `base`: lognormal with a deviation, clipped to [LOWEST, HIGHEST]."""
    return np.clip(base * np.exp(deviation * tastes), LOWEST, HIGHEST)


def directions(values: Float64) -> Float64:
    """Rows scaled to unit length, float64 of the same shape."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: Float64 = values / length
    return scaled


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """Sizes and habits of a world.

    Attributes:
        n_clusters: interests, C.
        n_items: items that ever exist, N; memory is a few float64 arrays of shape (C, N).
        dim: dimensions of the embedding space.
        top_w: items each cluster has edges to, W.
        k: clusters of a user's context, K.
        temperature: of the softmax over them.
        user_noise: length of a user's deviation from the home centroid, whose length is 1.
        taste_deviation: standard deviation of log click probability between items of equal cosine.
        half_life_steps: steps after which tastes correlate by 1/2 with what they were; 0 = no drift.
        arrival_steps: items published after the start arrive evenly over so many steps.
        share_at_start: share of the items that exist at step 0.
    """

    n_clusters: int = 50
    n_items: int = 500
    dim: int = 16
    top_w: int = 50
    k: int = 5
    temperature: float = 0.1
    user_noise: float = 1.4
    taste_deviation: float = 0.3
    half_life_steps: float = 0.0
    arrival_steps: int = 0
    share_at_start: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, where one is out of range."""
        for name in ("n_clusters", "n_items", "dim", "top_w", "k", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("user_noise", "taste_deviation", "half_life_steps", "arrival_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not 0 < self.share_at_start <= 1:
            raise ValueError(f"share_at_start: expected 0 < share <= 1, got {self.share_at_start}")
        if self.share_at_start < 1 and not self.arrival_steps:
            raise ValueError("arrival_steps: expected more than 0, as not all items exist at the start")


@dataclass(frozen=True, eq=False)
class Users:
    """Simulated users.

    Attributes:
        embeddings: float32 of shape (n, dim), what a caller sends.
        cluster_ids: int32 of shape (n, K), ascending in a row, what the server resolves them to.
        weights: float64 of shape (n, K).
    """

    embeddings: Float32
    cluster_ids: Int32
    weights: Float64


class World:
    """Users, items and true click probabilities theta, made from a seed.

    Attributes:
        settings: the sizes.
        centroids: float32 of shape (n_clusters, dim).
        items: embeddings, float32 of shape (n_items, dim).
        item_ids: external ids, in order of the items' numbers.
        published: step at which each item appears, int64 of shape (n_items,), ascending.

    Examples:
        >>> world = World(7, WorldSettings(n_clusters=8, n_items=40, top_w=10, k=3))
        >>> users = world.users(np.random.default_rng(1), 2)
        >>> world.probabilities(users.cluster_ids, users.weights, np.array([0, 1, 2])).shape
        (2, 3)
    """

    def __init__(self, seed: int, settings: WorldSettings | None = None) -> None:
        self.settings = settings = settings or WorldSettings()
        self._seed = seed
        rng = np.random.default_rng([seed, _PLACES])
        self.centroids = directions(rng.standard_normal((settings.n_clusters, settings.dim))).astype(np.float32)
        self.items = directions(rng.standard_normal((settings.n_items, settings.dim))).astype(np.float32)
        width = len(str(settings.n_items - 1))
        self.item_ids = [f"item-{number:0{width}d}" for number in range(settings.n_items)]
        self.published = self._arrivals()
        self._base = affinity(self.centroids.astype(np.float64) @ self.items.T.astype(np.float64))
        self._tastes: tuple[int, Float64, Float64] | None = None  # the two knots last asked for

    def _arrivals(self) -> Int64:
        settings = self.settings
        later = settings.n_items - max(1, round(settings.share_at_start * settings.n_items))
        rng = np.random.default_rng([self._seed, _ARRIVALS])
        published = np.zeros(settings.n_items, np.int64)
        if later:
            published[-later:] = np.sort(rng.integers(1, settings.arrival_steps + 1, later))
        return published

    def users(self, rng: np.random.Generator, n: int) -> Users:
        """`n` users around uniformly drawn home centroids."""
        settings = self.settings
        home = rng.integers(0, settings.n_clusters, n)
        noise = rng.standard_normal((n, settings.dim)) * (settings.user_noise / settings.dim**0.5)
        embeddings = directions(self.centroids[home] + noise).astype(np.float32)
        ids, weights = resolve_embeddings(
            embeddings, self.centroids, k=settings.k, temperature=settings.temperature
        )
        return Users(embeddings, ids, weights)

    def theta(self, step: float = 0.0) -> Float64:
        """True click probability of each cluster and item at a step, float64 of shape (n_clusters, n_items).

        Tastes are Gaussian of unit variance at every step. Between independent knots 1.5 half-lives apart they
        turn on a quarter circle, cos(f pi/2) z_i + sin(f pi/2) z_{i+1}: continuous, and after one half-life
        (f = 2/3 from a knot) the correlation is cos(pi/3) = 1/2.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        settings = self.settings
        place = step / (1.5 * settings.half_life_steps) if settings.half_life_steps else 0.0
        knot = int(place)
        if self._tastes is None or self._tastes[0] != knot:
            self._tastes = (knot, self._knot(knot), self._knot(knot + 1))
        angle = (place - knot) * np.pi / 2
        _, here, after = self._tastes
        return spread(self._base, settings.taste_deviation, np.cos(angle) * here + np.sin(angle) * after)

    def _knot(self, number: int) -> Float64:
        rng = np.random.default_rng([self._seed, _TASTES, number])
        return rng.standard_normal(self._base.shape)

    def probabilities(
        self,
        cluster_ids: npt.NDArray[np.integer],
        weights: Float64,
        items: npt.NDArray[np.integer],
        *,
        step: float = 0.0,
    ) -> Float64:
        """True click probability p_j = sum of w_k theta[c_k, j], on and off the graph alike.

        Args:
            cluster_ids: of shape (..., K).
            weights: of shape (..., K).
            items: numbers, of shape (..., S); leading dimensions broadcast.
            step: of the drift.

        Returns:
            float64 of shape (..., S).
        """
        picked = self.theta(step)[cluster_ids[..., :, None], items[..., None, :]]
        p: Float64 = np.einsum("...k,...ks->...s", weights, picked)
        return p

    def available(self, step: float = 0.0) -> Int64:
        """Numbers of the items published at or before a step, ascending."""
        return np.arange(np.searchsorted(self.published, step, side="right"))

    def best_possible(
        self,
        cluster_ids: npt.NDArray[np.integer],
        weights: Float64,
        slate_size: int,
        *,
        step: float = 0.0,
        items: npt.NDArray[np.integer] | None = None,
    ) -> Float64:
        """Expected clicks of the best slate when every shown item is examined.

        Args:
            cluster_ids: of shape (..., K).
            weights: of shape (..., K).
            slate_size: items of the slate, 1 or more; clipped to the items there are.
            step: of drift and arrivals.
            items: numbers to choose from; all that are available if not given.

        Returns:
            float64 of shape (...).
        """
        among = self.available(step) if items is None else items
        p = self.probabilities(cluster_ids, weights, among, step=step)
        size = min(slate_size, p.shape[-1])
        best: Float64 = np.partition(p, -size, axis=-1)[..., -size:].sum(axis=-1)
        return best

    def edges(self, step: float = 0.0) -> tuple[list[str], Int32, Int32, Float32]:
        """What `bandits.graph.build_graph` needs, over the items available at a step.

        Returns:
            item_ids; item number and cluster number of each edge; centroids. Item numbers are those of the world,
            as items arrive in order of their numbers.
        """
        available = self.available(step)
        edge_item, edge_cluster = attach_items(self.items[available], self.centroids, top_w=self.settings.top_w)
        return self.item_ids[: len(available)], edge_item, edge_cluster, self.centroids

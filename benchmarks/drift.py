"""What forgetting is worth: clicks under tastes that turn, and under tastes that stay, by half-life."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.backend import choose_backend
from bandits.forgetting import ageing, impressions_held
from bandits.graph import Graph, build_graph
from bandits.policies import PolicySettings
from bandits.served_sums import served_rows
from bandits.sums import HALF_LIFE, LATEST, UNIT, A, B, D, Facts, Sums
from benchmarks.measure import Result

TITLE = "Forgetting: expected reward beside remembering everything"
ABOUT = (
    "Ten items or as many as are named, users of two overlapping clusters out of four, one slot, Thompson sampling "
    "on averaged means, feedback after every hundred rounds, 200,000 rounds (100,000 with 40 items and 160). Where "
    "tastes turn, the appeal of every item goes through two full circles. Through the real sums: facts with the "
    "time of their impression, blocks, what a server would score from. Above 1 is better than no half-life in the "
    "same world with the same seeds."
)
Float64 = npt.NDArray[np.float64]

_CLUSTERS, _K, _BATCH = 4, 2, 100
_ROUND_MS = 60_000  # so that a half-life of a thousand rounds is one of seventeen hours
_START_MS = 1_700_000_000_000
_SCALE = 0.1


@dataclass(frozen=True)
class World:
    """Click probabilities of items by cluster, which may turn.

    Attributes:
        rounds: in all.
        turns: how often every item's appeal goes through a full circle.
        seed: of everything random.
        items: how many there are.
    """

    rounds: int
    turns: float
    seed: int
    items: int = 10

    def chances(self, at: int) -> Float64:
        """Click probability of each item in each cluster at a round, of shape (items, clusters)."""
        rng = np.random.default_rng([self.seed, 1])
        appeal = rng.normal(size=(self.items, _CLUSTERS, 2))
        angle = 2 * np.pi * self.turns * at / self.rounds
        turned = appeal[:, :, 0] * np.cos(angle) + appeal[:, :, 1] * np.sin(angle)
        return 0.3 / (1 + np.exp(2.0 - turned))


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        reward: mean click probability of what was shown.
        held: impressions of an edge within a half-life, at the end; 0 where nothing is forgotten.
    """

    reward: float
    held: float


def outcome(world: World, half_life_rounds: int) -> Outcome:
    """What Thompson sampling earns with a half-life; 0 = nothing is forgotten."""
    rng, backend, graph = np.random.default_rng([world.seed, 2]), choose_backend("numba"), _graph(world.items)
    sums, earned = Sums.zeros(graph), 0.0
    for start in range(0, world.rounds, _BATCH):
        chances = world.chances(start)
        clusters = np.sort(rng.permuted(np.tile(np.arange(_CLUSTERS), (_BATCH, 1)), axis=1)[:, :_K], axis=1)
        weights = rng.dirichlet([2.0] * _K, _BATCH)
        x = np.maximum(np.rint(weights * UNIT), 1).astype(np.int64)
        mean, width = _estimate(_served(graph, sums, start), clusters, x / UNIT)
        item = (mean + _SCALE * width * rng.normal(size=mean.shape)).argmax(axis=1)
        p = (x / UNIT * chances[item[:, None], clusters]).sum(axis=1)
        earned += float(p.sum())
        ones = np.ones(_BATCH, np.int64)
        backend.add(
            graph,
            sums,
            Facts(
                item=item.astype(np.int32),
                context=np.arange(_BATCH, dtype=np.int32),
                impressions=ones,
                reward=UNIT * (rng.random(_BATCH) < p).astype(np.int64),
                context_ptr=_K * np.arange(_BATCH + 1),
                context_cluster=clusters.ravel().astype(np.int32),
                context_x=x.ravel(),
                shown_ms=_START_MS + _ROUND_MS * (start + np.arange(_BATCH)) if half_life_rounds else None,
                half_life_ms=half_life_rounds * _ROUND_MS * ones if half_life_rounds else None,
            ),
        )
    return Outcome(earned / world.rounds, _held(graph, sums))


def run(quick: bool) -> list[Result]:
    rounds, seeds = (2_000, 1) if quick else (200_000, 4)
    results = []
    for name, turns in (("tastes stay", 0.0), ("tastes turn", 2.0)):
        worlds = [World(rounds, turns, seed) for seed in range(seeds)]
        results += _by_half_life(name, worlds, (4, 8, 16))
    rounds, seeds = (2_000, 1) if quick else (100_000, 2)
    for items in (40, 160):
        worlds = [World(rounds, 0.0, seed, items) for seed in range(seeds)]
        results += _by_half_life(f"tastes stay, {items} items", worlds, (2, 4, 16, 64))
    return results


def _by_half_life(name: str, worlds: list[World], shares: tuple[int, ...]) -> list[Result]:
    """Reward beside that of remembering everything, and how many impressions of an edge a half-life holds."""
    remembered = [outcome(world, 0).reward for world in worlds]
    results = []
    for share in shares:
        kept = [outcome(world, world.rounds // share) for world in worlds]
        ratios = [one.reward / other for one, other in zip(kept, remembered, strict=True)]
        title = f"{name}, half-life 1/{share} of the run"
        results.append(Result.of(title, ratios, "x"))
        results.append(Result.of(f"{title}: impressions of an edge in it", [one.held for one in kept], ""))
    return results


def _graph(items: int) -> Graph:
    return build_graph(
        version="drift",
        centroids=[],
        n_clusters=_CLUSTERS,
        item_ids=[f"item-{number}" for number in range(items)],
        edge_item=np.repeat(np.arange(items), _CLUSTERS),
        edge_cluster=np.tile(np.arange(_CLUSTERS), items),
    )


def _held(graph: Graph, sums: Sums) -> float:
    if sums.extra is None or sums.times is None:
        return 0.0
    return impressions_held(sums.edge, sums.extra, sums.times, np.diff(graph.item_ptr))


def _served(graph: Graph, sums: Sums, at: int) -> Float64:
    """Sums as a server would score from them, of shape (items, clusters, 3), in natural units."""
    rows = sums.edge
    if sums.extra is not None and sums.times is not None:
        times = sums.times
        now_ms = max(_START_MS + _ROUND_MS * at, int(times[:, LATEST].max()))
        newest, past = ageing(times[:, LATEST], times[:, HALF_LIFE], now_ms)
        owner = np.repeat(np.arange(graph.n_items), np.diff(graph.item_ptr))
        rows, _ = served_rows(sums.edge, sums.extra, newest[owner], past[owner], PolicySettings(), owner)
    return rows.reshape(graph.n_items, _CLUSTERS, 3) / np.array([UNIT, UNIT**2, UNIT**2])


def _estimate(sums: Float64, clusters: npt.NDArray[np.int64], weights: Float64) -> tuple[Float64, Float64]:
    """Mean and width of every item in every context, of shape (rounds, items)."""
    theta = sums[:, :, B] / np.maximum(sums[:, :, A], 1e-9)
    variance = 1 / np.maximum(sums[:, :, D], 1e-4)
    mean = np.einsum("jbk,bk->bj", theta[:, clusters], weights)
    return mean, np.sqrt(np.einsum("jbk,bk->bj", variance[:, clusters], weights**2))

"""Ranks of candidates with drawn scores: integrals against draws, and against the definition in NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from bandits.drawn_propensity import ACCURACY, propensity_over_draws
from bandits.drawn_ranks import CROWD, SMALLEST_PROPENSITY, rank_probabilities
from bandits.numba_ranks import drawn_ranks
from bandits.policies import CandidateSums, PolicySettings, score
from bandits.slates import pick

Float64 = npt.NDArray[np.float64]


def laws(kind: str, n: int, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Base and scale of candidates: a new catalogue, a known one, both together, widths of all sizes."""
    if kind == "new":
        return np.full(n, 0.05), np.full(n, 0.1)
    if kind == "known":
        return rng.random(n), np.full(n, 0.02)
    if kind == "both":
        return rng.random(n) * 0.2, np.where(rng.random(n) < 0.2, 0.15, 0.002)
    return rng.random(n) * 0.1, rng.random(n) ** 3 * 0.3 + 1e-9


def simulated(
    base: Float64, scale: Float64, normal: bool, chosen: Any, depth: int, count: int, rng: np.random.Generator
) -> Float64:
    """How often each of the chosen had each rank; ties in random order."""
    seen = np.zeros((len(chosen), depth))
    for _ in range(20):
        shape = (count // 20, len(base))
        scores = base + scale * (rng.normal(size=shape) if normal else np.sqrt(rng.exponential(size=shape)))
        order = np.lexsort((rng.random(shape), -scores), axis=1)[:, :depth]
        seen += (order[:, None, :] == np.asarray(chosen)[:, None]).sum(axis=0)
    return seen / (count // 20 * 20)


_drawn_ranks = njit(drawn_ranks)


def integrated(base: Float64, scale: Float64, normal: bool, chosen: Any, depth: int) -> Float64:
    ranks = np.empty((len(chosen), depth))
    _drawn_ranks(base, scale, normal, np.asarray(chosen), depth, np.full(len(chosen), -1), ranks)
    return ranks


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["new", "known", "both", "any"]),
    normal=st.booleans(),
    n=st.sampled_from([1, 2, 12, 40]),
    size=st.sampled_from([1, 5, 12]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranks_of_a_slate_are_those_of_the_definition(
    kind: str, normal: bool, n: int, size: int, seed: int
) -> None:
    """A few chosen points give the integral that very many give, to the accuracy that is stated."""
    rng = np.random.default_rng(seed)
    base, scale = laws(kind, n, rng)
    depth = min(size, n)
    served = base + scale * (rng.normal(size=n) if normal else np.sqrt(rng.exponential(size=n)))
    chosen = np.argsort(-served)[:depth]
    told = integrated(base, scale, normal, chosen, depth)
    defined = rank_probabilities(base, scale, normal=normal, chosen=chosen, depth=depth)
    assert np.abs(told - defined).max() <= ACCURACY


@pytest.mark.parametrize("normal", [True, False])
def test_the_definition_is_what_draws_do(normal: bool) -> None:
    """Ranks happen as often as the integral says."""
    rng = np.random.default_rng(1)
    base, scale = laws("any", 30, rng)
    chosen, count = np.arange(8), 40_000
    defined = rank_probabilities(base, scale, normal=normal, chosen=chosen, depth=8)
    seen = simulated(base, scale, normal, chosen, 8, count, rng)
    assert (np.abs(seen - defined) <= 5 * np.sqrt(defined * (1 - defined) / count) + 2e-3).all()


@pytest.mark.parametrize("normal", [True, False])
@pytest.mark.parametrize("kind", ["new", "known", "both", "any"])
def test_a_crowd_is_counted_as_one_by_one(kind: str, normal: bool) -> None:
    """Thousands of candidates of small chances are counted by a sample, and ranks come out as draws have them."""
    rng = np.random.default_rng(2)
    base, scale = laws(kind, 8 * CROWD, rng)
    served = base + scale * (rng.normal(size=len(base)) if normal else np.sqrt(rng.exponential(size=len(base))))
    chosen = np.argsort(-served)[:10]
    count = 2_000
    seen = simulated(base, scale, normal, chosen, 10, count, rng)
    told = integrated(base, scale, normal, chosen, 10)
    assert (np.abs(seen - told) <= 5 * np.sqrt(told * (1 - told) / count + 1e-7) + ACCURACY).all()


@pytest.mark.parametrize("normal", [True, False])
def test_candidates_without_a_width_share_ranks_with_their_equals(normal: bool) -> None:
    """Items that nothing is drawn for are points: equals are in random order, others around them as drawn."""
    rng = np.random.default_rng(3)
    base, scale = np.round(rng.random(40) * 0.3, 1), np.where(rng.random(40) < 0.5, 0.0, 0.05)
    chosen, count = np.argsort(-base)[:10], 40_000
    seen = simulated(base, scale, normal, chosen, 10, count, rng)
    told = integrated(base, scale, normal, chosen, 10)
    assert (np.abs(seen - told) <= 5 * np.sqrt(told * (1 - told) / count + 1e-7) + ACCURACY).all()


def candidates(n: int, rng: np.random.Generator) -> CandidateSums:
    shown = rng.integers(1, 400, (n, 2)).astype(float)
    clicked = np.minimum(rng.poisson(shown * rng.random((n, 1)) * 0.2), shown)
    return CandidateSums(
        weights=np.array([0.6, 0.4]),
        edge=np.ones((n, 2), np.bool_),
        a=shown * 0.5,
        d=shown * 0.25,
        b=clicked * 0.5,
        n=shown.sum(axis=1),
        s=clicked.sum(axis=1),
        keys=rng.integers(0, 1 << 63, n).astype(np.uint64),
    )


@pytest.mark.parametrize("mode", ["thompson", "randomized_ucb"])
@pytest.mark.parametrize(("top_m", "explore_share"), [(1, 0.0), (4, 0.0), (1, 0.3), (3, 0.2)])
def test_propensities_are_how_often_items_are_put_there(mode: str, top_m: int, explore_share: float) -> None:
    """Over many seeds an item is at a position as often as its propensity said, whatever the picker adds."""
    rng = np.random.default_rng(4)
    sums, policy = candidates(20, rng), PolicySettings(pooled_mean=0.1)
    how: dict[str, Any] = {"top_m": top_m, "explore_share": explore_share}
    count, size = 4_000, 5
    placed, told = np.zeros((20, size)), np.full((20, size), np.nan)
    for seed in range(count):
        scores = score(mode, sums, policy, seed)
        slate = pick(scores.score, keys=sums.keys, slate_size=size, seed=seed, **how)
        placed[slate.chosen, np.arange(size)] += 1
        if seed < 300:
            told[slate.chosen, np.arange(size)] = propensity_over_draws(
                slate, scores, sums, policy, mode=mode, seed=seed, draws=1, **how
            )
    known = ~np.isnan(told)
    seen, said = placed[known] / count, told[known]
    assert said.min() >= SMALLEST_PROPENSITY
    assert (np.abs(seen - said) <= 5 * np.sqrt(said * (1 - said) / count) + ACCURACY).all()
    assert known.sum() > 10


def test_what_is_not_drawn_keeps_its_exact_propensity() -> None:
    """Without optimism nothing is drawn, and an exact number is not replaced by another."""
    rng = np.random.default_rng(5)
    sums, policy = candidates(20, rng), PolicySettings(optimism=0.0)
    scores = score("randomized_ucb", sums, policy, 1)
    slate = pick(scores.score, keys=sums.keys, slate_size=5, seed=1, top_m=3)
    told = propensity_over_draws(slate, scores, sums, policy, mode="randomized_ucb", seed=1, draws=1, top_m=3)
    assert told.tolist() == slate.propensity.tolist()

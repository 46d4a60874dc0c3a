"""Compiled reserved slots against their definition."""

import numpy as np
import pytest

from bandits.draws import COARSE_QUANTILES, COARSE_REDRAWS, OPTIMISM_REDRAWS, coarse_bits, coarse_normals
from bandits.numba_reserved import fill_reserved
from bandits.policies import PolicySettings, optimism_at
from bandits.reserved_slots import Pools, pick_reserved, placement_reserved
from bandits.slates_numba import compiled_policy


def filled(score, mean, spread, keys, pools, *, mode="ucb", size, top_m, seed, redraws=8):
    policy = compiled_policy(mode, PolicySettings(), top_m=top_m, explore_share=0.0)
    n = len(score)
    return fill_reserved(
        score,
        mean,
        spread,
        keys,
        pools.of,
        np.array(pools.shares),
        policy.row,
        COARSE_QUANTILES,
        np.uint64(seed),
        min(size, n),
        min(top_m, n),
        redraws,
    )


def cases():
    rng = np.random.default_rng(11)
    for number in range(50):
        n = int(rng.integers(1, 90))
        score = np.round(rng.normal(size=n), int(rng.integers(0, 6)))
        score[rng.random(n) < 0.2] = np.inf
        of = rng.integers(0, 3, n).astype(np.int8)
        share = float(rng.random())
        shares = (share * float(rng.choice([0.0, 0.1, 1.0])), (1 - share) * float(rng.choice([0.0, 0.1, 1.0])))
        keys = rng.integers(0, 1 << 63, n).astype(np.uint64)
        yield (
            number,
            score,
            keys,
            Pools(of, shares),
            int(rng.integers(1, 70 if number % 10 == 0 else 12)),
            int(rng.choice([1, 1, 2, 5])),
        )


def test_the_compiled_slate_is_that_of_the_definition():
    """The same items and draws, and the same propensities but for rounding."""
    for seed, score, keys, pools, size, top_m in cases():
        told = pick_reserved(score, keys=keys, slate_size=size, top_m=top_m, pools=pools, seed=seed)
        chosen, propensity, drawn = filled(score, score, score, keys, pools, size=size, top_m=top_m, seed=seed)
        assert (chosen == told.chosen).all(), seed
        assert (drawn == told.drawn).all(), seed
        assert propensity == pytest.approx(told.propensity, rel=1e-9), seed


@pytest.mark.parametrize("mode", ["thompson", "randomized_ucb"])
def test_the_compiled_estimate_is_that_over_the_same_redraws(mode):
    """Where scores are drawn, candidates without spread stay at their mean."""
    settings, redraws = PolicySettings(), 8
    rng = np.random.default_rng(3)
    for seed in range(20):
        n, size = 30, 6
        mean, spread = rng.random(n), rng.random(n) * (rng.random(n) < 0.7)
        keys = rng.integers(0, 1 << 63, n).astype(np.uint64)
        pools = Pools(rng.integers(0, 3, n).astype(np.int8), (0.2, 0.1))
        slate = pick_reserved(mean, keys=keys, slate_size=size, top_m=1, pools=pools, seed=seed)
        if mode == "thompson":
            draws = settings.thompson_scale * coarse_normals(seed, COARSE_REDRAWS, keys, redraws)
        else:
            draws = settings.optimism * optimism_at(coarse_bits(seed, OPTIMISM_REDRAWS, keys, redraws))
        placed = placement_reserved(mean + draws * spread, slate.chosen, top_m=1, pools=pools)
        expected = (slate.propensity + placed.sum(axis=0)) / (redraws + 1)
        chosen, propensity, _ = filled(
            mean, mean, spread, keys, pools, mode=mode, size=size, top_m=1, seed=seed, redraws=redraws
        )
        assert (chosen == slate.chosen).all()
        assert propensity == pytest.approx(expected, rel=1e-9), seed

"""Shadow policies where exploration is bounded: the same bounds, and weights that are true."""

from dataclasses import replace

import numpy as np
import pytest

from bandits.life_cycle import Bounds, LifeCycle
from server.scoring import fill_slate
from server.shadow.policies import ShadowPolicy
from tests.server.test_bounded_slates import OWED, candidates, rules_of

BOUNDS = Bounds(LifeCycle(max_item_impressions=22, first_impressions=20, first_share=0.3), owed=OWED)
SERVED = rules_of(explore_share=0.4)


def served(mode, seed, rules=SERVED, bounds=BOUNDS):
    return fill_slate(candidates(), mode=mode, slate_size=3, seed=seed, rules=rules, bounds=bounds)


def weights(shadow, mode, slate, *, bounds=BOUNDS, rules=SERVED, seed=5):
    told = shadow.probabilities(
        candidates(), slate.chosen, slate.propensity, mode=mode, served=rules, seed=seed, bounds=bounds
    )
    return told / slate.propensity


@pytest.mark.parametrize("mode", ["exploit", "ucb", "uniform", "epsilon_greedy"])
def test_a_shadow_that_is_as_served_weighs_one(mode):
    """Through its own arithmetic, not because it is recognised: an idle setting is changed."""
    shadow = ShadowPolicy("same", mode, policy={"beta_prior": (2.0, 3.0)})
    for seed in range(20):
        assert weights(shadow, mode, served(mode, seed)) == pytest.approx(1.0, rel=1e-9)


def test_weights_are_one_on_average():
    """Where the served policy can show all that the shadow would, nothing of the shadow's is missed."""
    shadow = ShadowPolicy("greedier", "exploit", slate={"explore_share": 0.1})
    slates = [served("uniform", seed) for seed in range(50)]
    # Uniform slates put those in the lane first, so only slots that both may fill are compared.
    mixed = [served("epsilon_greedy", seed) for seed in range(1_500)]
    means = np.mean([weights(shadow, "epsilon_greedy", slate) for slate in mixed], axis=0)
    assert means == pytest.approx(1.0, abs=0.1)
    assert max(weights(shadow, "uniform", slate).max() for slate in slates) > 0


def test_nobody_outside_the_lane_is_explored_by_a_shadow():
    """A bolder shadow draws those in the lane more often, and the others no more than their rank gives them."""
    shadow = ShadowPolicy("bold", "exploit", slate={"explore_share": 0.9})
    modest = ShadowPolicy("modest", "exploit", slate={"explore_share": 0.0})
    slate = served("exploit", 1)
    outside = np.flatnonzero(candidates().n >= 22)
    lowest = np.array([int(outside[0]), 0, 1])
    told = [
        one.probabilities(
            candidates(), lowest, slate.propensity, mode="exploit", served=SERVED, seed=1, bounds=BOUNDS
        )
        for one in (shadow, modest)
    ]
    assert told[0][0] == told[1][0] == 0.0
    assert (told[0][1:] > told[1][1:]).all()


def test_where_the_budget_was_spent_a_shadow_exploits_too():
    """Its own budget would be spent as well; the settings that are its own still rank."""
    spent = Bounds(LifeCycle(), spent=True)
    rules = replace(SERVED, explore_share=0.0)
    slate = served("exploit", 3, rules, None)
    assert weights(ShadowPolicy("ucb", "ucb"), "exploit", slate, bounds=spent) == pytest.approx(1.0)
    drawn = ShadowPolicy("drawn", "randomized_ucb", slate={"explore_share": 0.5})
    assert weights(drawn, "exploit", slate, bounds=spent) == pytest.approx(1.0)


def test_drawn_scores_keep_the_bounds():
    """An item that is owed impressions has at least its share of each slot under a shadow that draws its scores."""
    shadow = ShadowPolicy("drawn", "thompson")
    for seed in range(20):
        slate = served("ucb", seed)
        told = weights(shadow, "ucb", slate) * slate.propensity
        in_lane = OWED & (candidates().n < 22)
        share = 0.3 / np.count_nonzero(in_lane)
        assert (told[in_lane[slate.chosen]] >= share * (1 - 1e-9)).all()

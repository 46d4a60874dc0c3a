"""Slates under bounds of exploration: who is never explored, and how exactly that is said."""

import itertools

import numpy as np
import pytest

from bandits.life_cycle import IN_LANE, Bounds, LifeCycle
from bandits.policies import CandidateSums, PolicySettings
from server.scoring import SlateRules, fill_slate

N = 8
MODES = ("exploit", "epsilon_greedy", "uniform", "ucb")  # with exact propensities
OWED = np.array([1, 1, 0, 0, 0, 0, 0, 1], np.bool_)


def candidates():
    """Item i was shown 5 i times; the mean of those shown most is the best."""
    shown = np.arange(N)[:, None] * 5.0 * np.ones(2)
    return CandidateSums(
        weights=np.array([0.5, 0.5]),
        edge=np.ones((N, 2), np.bool_),
        a=shown / 2,
        d=shown / 4,
        b=shown / 2 * np.linspace(0.1, 0.8, N)[:, None],
        n=shown[:, 0],
        s=shown[:, 0] * np.linspace(0.1, 0.8, N),
        keys=np.arange(N, dtype=np.uint64) * np.uint64(977),
    )


def rules_of(*, explore_share=0.0, top_m=1):
    return SlateRules(PolicySettings(epsilon=0.4), top_m, explore_share, 64)


def filled(mode, bounds, rules, *, seed, size=3):
    return fill_slate(candidates(), mode=mode, slate_size=size, seed=seed, rules=rules, bounds=bounds)


@pytest.mark.parametrize("mode", [*MODES, "thompson", "beta_thompson", "randomized_ucb"])
def test_nobody_outside_the_lane_is_explored(mode):
    """By no mode and no share: such an item is in a slate for its mean, or not at all."""
    bounds = Bounds(LifeCycle(max_item_impressions=12))
    inside = bounds.states(candidates(), np.full(N, np.inf)) == IN_LANE
    assert inside.sum() == 3
    rules = rules_of(explore_share=0.5)
    for seed in range(300):
        slate = filled(mode, bounds, rules, seed=seed)
        assert not (slate.explored & ~inside[slate.chosen]).any()
        outside = slate.chosen[~inside[slate.chosen]]
        assert (slate.score == slate.mean)[~inside[slate.chosen]].all()
        assert (np.diff(outside) < 0).all(), "those outside are in the order of their means"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("explore_share", "top_m", "owed"), [(0.3, 1, None), (0.2, 2, OWED), (0.0, 1, OWED)])
def test_propensities_are_frequencies_in_every_mode(mode, explore_share, top_m, owed):
    """How often an item lands at a position is what the slate says, with items outside the lane and owed ones."""
    rules = rules_of(explore_share=explore_share, top_m=top_m)
    bounds = Bounds(LifeCycle(max_item_impressions=22, first_impressions=20, first_share=0.2), owed=owed)
    draws = 400
    seen, said = np.zeros((N, 3)), np.zeros((N, 3))
    for seed in range(draws):
        slate = filled(mode, bounds, rules, seed=seed)
        assert not slate.estimated
        at = slate.chosen, np.arange(3)
        seen[at] += 1 / draws
        said[at] = slate.propensity
    for item, position in itertools.product(range(N), range(3)):
        assert seen[item, position] == pytest.approx(said[item, position], abs=5 * np.sqrt(0.25 / draws))


def test_a_draw_of_one_outside_the_lane_is_void():
    """The fewer are left in the lane, the less is explored: the last one there does not get all of the share."""
    rules = rules_of(explore_share=0.4)
    shares = []
    for cap in (100, 17, 2):
        bounds = Bounds(LifeCycle(max_item_impressions=cap))
        slates = [filled("exploit", bounds, rules, seed=seed) for seed in range(800)]
        shares.append(np.mean([slate.explored.mean() for slate in slates]))
    assert shares == pytest.approx([0.4, 0.4 * 4 / 8, 0.4 / 8], abs=0.03)


def test_items_that_are_owed_have_their_share_whatever_ranks():
    """Two that never rank get the share of the slots, and each as much as the other."""
    owed = np.zeros(N, np.bool_)
    owed[:2] = True
    bounds = Bounds(LifeCycle(first_impressions=20, first_share=0.2), owed=owed)
    for mode in ("exploit", "randomized_ucb"):
        slates = [filled(mode, bounds, rules_of(), seed=seed) for seed in range(800)]
        drawn = np.concatenate([slate.chosen[slate.explored] for slate in slates])
        assert set(drawn.tolist()) == {0, 1}
        assert len(drawn) / (3 * len(slates)) == pytest.approx(0.2, abs=0.03)
        assert np.mean(drawn == 0) == pytest.approx(0.5, abs=0.1)
        assert sum(slate.first for slate in slates) == len(drawn)


def test_a_drawn_score_leaves_the_propensity_of_a_reserved_slot_exact_from_below():
    """An estimate over redraws of the scores contains the draw from the pool exactly."""
    owed = np.zeros(N, np.bool_)
    owed[0] = True
    bounds = Bounds(LifeCycle(first_impressions=20, first_share=0.3), owed=owed)
    told = []
    for seed in range(300):
        slate = filled("randomized_ucb", bounds, rules_of(), seed=seed)
        told += slate.propensity[slate.explored].tolist()
        assert slate.estimated
    assert min(told) >= 0.3 * (1 - 1e-12)


def test_an_owed_item_outside_the_lane_has_no_slots():
    """A cap, an age or a graduation ends the guarantee too."""
    bounds = Bounds(
        LifeCycle(max_item_impressions=1, first_impressions=1, first_share=0.5), owed=np.ones(N, np.bool_)
    )
    for seed in range(100):
        slate = filled("exploit", bounds, rules_of(), seed=seed)
        assert set(slate.chosen[slate.explored].tolist()) <= {0}


def test_what_is_explored_is_counted_for_the_budget():
    """Optimistic rank and draws alike, once an item; ranking by means alone is no exploration."""
    bounds = Bounds(LifeCycle(max_item_impressions=12))
    assert filled("ucb", bounds, rules_of(), seed=1).exploring == 1
    assert filled("uniform", bounds, rules_of(), seed=1).exploring == 3
    assert filled("exploit", bounds, rules_of(), seed=1).exploring == 0
    for seed in range(50):
        slate = filled("epsilon_greedy", bounds, rules_of(), seed=seed)
        assert slate.exploring == slate.explored.sum()


@pytest.mark.parametrize("mode", [*MODES, "thompson", "beta_thompson", "randomized_ucb"])
def test_compiled_loops_change_nothing(mode):
    """The same slate as by the definition, in every mode, with numbers that differ by rounding alone."""
    rules = rules_of(explore_share=0.2, top_m=2)
    bounds = Bounds(LifeCycle(max_item_impressions=22, first_impressions=20, first_share=0.2), owed=OWED)
    for seed in range(15):
        plain = filled(mode, bounds, rules, seed=seed)
        compiled = fill_slate(
            candidates(), mode=mode, slate_size=3, seed=seed, rules=rules, bounds=bounds, compiles=True
        )
        assert (compiled.chosen == plain.chosen).all()
        assert (compiled.explored == plain.explored).all()
        assert compiled.propensity == pytest.approx(plain.propensity, rel=1e-9)
        assert (compiled.exploring, compiled.first, compiled.estimated) == (
            plain.exploring,
            plain.first,
            plain.estimated,
        )


def test_nothing_to_fill_is_an_empty_slate():
    """All candidates may have been excluded."""
    sums = candidates()
    none = CandidateSums(
        sums.weights, *(getattr(sums, name)[:0] for name in ("edge", "a", "d", "b", "n", "s", "keys"))
    )
    slate = fill_slate(
        none, mode="randomized_ucb", slate_size=3, seed=0, rules=rules_of(), bounds=Bounds(LifeCycle())
    )
    assert len(slate.chosen) == len(slate.propensity) == 0

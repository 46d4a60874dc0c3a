"""What is estimated of a shadow policy is what it would have earned."""

import zlib
from typing import Any

import numpy as np
import pytest

from bandits.context import Context
from bandits.policies import DRAWN_MODES, PolicySettings, redraw, score
from bandits.slate_propensity import placement
from server.scoring import SlateRules
from server.shadow.policies import ShadowPolicy
from tests.server.shadow.shadowed import ITEMS, Shadowed

SLATES = 6_000
APPEAL = np.linspace(0.05, 0.75, len(ITEMS))
LOOKED_AT = np.array([1.0, 0.7, 0.5])


def live(shadowed: Shadowed, rng: np.random.Generator, slates: int = SLATES) -> None:
    """Slates with clicks that depend on item and position alone."""
    for number in range(slates):
        reply = shadowed.score(f"r{number}", seed=int(rng.integers(2**63)))
        shown = np.array([ITEMS.index(item.item_id) for item in reply.items])
        clicked = np.flatnonzero(rng.random(3) < APPEAL[shown] * LOOKED_AT)
        shadowed.click(f"r{number}", *(ITEMS[item] for item in shown[clicked]))
        if number % 500 == 0:
            shadowed.work()
    shadowed.close()


def true_value(shadowed: Shadowed, policy: ShadowPolicy) -> float:
    """Reward per shown item of a policy, by the probability of every item at every position."""
    parameters = shadowed.snapshot.current
    assert parameters is not None
    items = parameters.graph.lookup(ITEMS)
    sums = parameters.gather(items, Context(np.zeros(1, np.int32), np.ones(1))).sums
    rules = policy.rules(shadowed.rules.current.slate)
    drawn = policy.mode in DRAWN_MODES
    scores = (
        redraw(policy.mode, sums, rules.policy, 987_654, 40_000)
        if drawn
        else score(policy.mode, sums, rules.policy, 0).score[None]
    )
    total = 0.0
    for item in range(len(ITEMS)):
        for slot in range(3):
            slate = np.array([(item + at - slot) % len(ITEMS) for at in range(3)])
            share = rules.share_of(policy.mode)
            at_slot = placement(scores, slate, top_m=rules.top_m, explore_share=share).mean(axis=0)[slot]
            total += at_slot * APPEAL[item] * LOOKED_AT[slot]
    return float(total / 3)


@pytest.mark.parametrize(
    ("served", "rules", "policy"),
    [
        ("uniform", {}, ShadowPolicy("s", "exploit")),
        ("uniform", {}, ShadowPolicy("s", "randomized_ucb", policy={"pooled_mean": 0.3})),
        ("exploit", {"explore_share": 0.5}, ShadowPolicy("s", "ucb", slate={"top_m": 4, "explore_share": 0.2})),
        ("thompson", {"explore_share": 0.3}, ShadowPolicy("s", "uniform")),
        ("thompson", {"explore_share": 0.3}, ShadowPolicy("s", "thompson", policy={"thompson_scale": 1.0})),
    ],
    ids=[
        "exact from uniform",
        "drawn from uniform",
        "exact from explored",
        "uniform from drawn",
        "drawn from drawn",
    ],
)
def test_a_shadow_is_worth_what_it_would_have_earned(served: str, rules: Any, policy: ShadowPolicy) -> None:
    """The true values of the policy, and of its lift over the served one, are within four standard errors."""
    shadowed = Shadowed(policy, served=served, **rules)
    live(shadowed, np.random.default_rng(zlib.crc32(served.encode())))
    truth = true_value(shadowed, policy)
    (standing,) = shadowed.awaited.standings()
    assert standing.refused == ()
    assert standing.slates == SLATES
    (followed,) = shadowed.awaited._standings._followed
    sums = followed.sums
    error = 0.0
    for value, interval in (
        (standing.ips, sums.policy.ips_interval()),
        (standing.snips, sums.policy.snips_interval()),
    ):
        assert value is not None
        error = (interval[1] - interval[0]) / (2 * 1.96)
        assert abs(value - truth) < 4 * error
        assert error < 0.03
    lift = truth - true_value(shadowed, ShadowPolicy("as served", served))
    assert standing.lift is not None
    assert abs(standing.lift - lift) < 4 * (error + 0.5 / SLATES**0.5)
    for interval, true in ((standing.value_interval, truth), (standing.lift_interval, lift)):
        assert interval is not None
        assert interval[0] < true < interval[1]
        assert interval[1] - interval[0] < 0.5


@pytest.mark.parametrize("served", ["uniform", "thompson", "ucb"])
def test_a_shadow_as_served_earns_what_was_earned(served: str) -> None:
    """All its weights are 1: no estimate differs from the mean of the log, and the lift is 0 with its interval."""
    shadowed = Shadowed(ShadowPolicy("same", served), served=served)
    live(shadowed, np.random.default_rng(3), slates=300)
    (standing,) = shadowed.awaited.standings()
    assert (standing.max_weight, standing.mean_weight) == (1.0, 1.0)
    assert standing.effective_slates == pytest.approx(300)
    assert standing.logged > 0.1
    assert standing.ips == standing.snips == pytest.approx(standing.logged)
    assert standing.lift == pytest.approx(0.0, abs=1e-9)
    assert standing.lift_interval is not None
    assert standing.lift_interval == pytest.approx((-standing.lift_interval[1], standing.lift_interval[1]))
    assert 0 < standing.lift_interval[1] < 0.2


def test_what_was_never_shown_is_not_judged() -> None:
    """Where the served policy leaves nothing to chance, another one is refused, with the reasons and no number."""
    shadowed = Shadowed(ShadowPolicy("other", "uniform"), served="exploit")
    live(shadowed, np.random.default_rng(4), slates=400)
    (standing,) = shadowed.awaited.standings()
    assert any("mean weight" in reason for reason in standing.refused)
    assert (standing.ips, standing.snips, standing.lift) == (None, None, None)
    assert standing.logged > 0


def test_settings_that_are_not_given_are_those_in_force() -> None:
    """A prior that was fitted meanwhile holds for the shadow too."""
    fitted = SlateRules(PolicySettings(beta_prior=(3.0, 7.0)), top_m=2, explore_share=0.1, propensity_draws=9)
    rules = ShadowPolicy("s", "ucb", policy={"alpha": 2.0}, slate={"top_m": 3}).rules(fitted)
    assert rules == SlateRules(PolicySettings(alpha=2.0, beta_prior=(3.0, 7.0)), 3, 0.1, 9)

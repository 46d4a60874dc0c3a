"""Scenarios of the regret table: what they change, and how the loop over rounds obeys."""

from dataclasses import replace

import numpy as np
import pytest

from bandits.simulator.fixed_environment import environment, stream
from bandits.simulator.regret import Played, play
from bandits.simulator.regret_policies import policy
from bandits.simulator.regret_scenarios import SCENARIOS, Conditions, make_conditions, plain_conditions

WORLD = environment()
ROUNDS = 400


def played(conditions: Conditions, *, name: str = "random", slate_size: int = 1) -> Played:
    rounds = stream(WORLD, 1100, ROUNDS, 5)
    rng = np.random.default_rng(3)
    return play(WORLD, rounds, policy(name, 0.5), slate_size=slate_size, conditions=conditions, rng=rng)


@pytest.mark.parametrize("name", SCENARIOS)
def test_conditions_are_probabilities_and_repeat(name: str) -> None:
    """Equal seeds give equal conditions; click probabilities and rounds are within their bounds."""
    shape = SCENARIOS[name]
    world = environment(items=shape.items, width=shape.width)
    made, again = (make_conditions(world, shape, ROUNDS, delay=7, seed=5) for _ in range(2))
    assert made.theta.shape[1:] == world.theta.shape == (50, shape.items)
    assert np.array_equal(made.theta, again.theta)
    assert np.array_equal(made.arrives, again.arrives)
    assert 0 < made.theta.min() <= made.theta.max() <= 0.6
    assert (made.arrives > np.arange(ROUNDS)).all()
    assert made.published.min() == 0
    assert made.published.max() <= ROUNDS * 3 // 4


def test_what_is_not_published_is_never_shown() -> None:
    """An item is no candidate before its round, neither for the policy nor for the best slate."""
    conditions = make_conditions(WORLD, replace(SCENARIOS["arrivals"], arriving=0.9), ROUNDS, delay=0, seed=1)
    made = played(conditions, slate_size=2)
    assert (conditions.published[made.actions] <= np.arange(ROUNDS)[:, None]).all()
    assert (conditions.published[made.actions] > 0).any()
    assert (made.regret >= -1e-12).all()


def test_clicks_follow_the_phase_that_they_are_in() -> None:
    """Where nothing is clicked in the first phase and all in the second, clicks begin with the second."""
    plain = plain_conditions(WORLD, ROUNDS, delay=0)
    theta = np.stack([np.zeros_like(WORLD.theta), np.ones_like(WORLD.theta)])
    clicked = played(replace(plain, theta=theta, phase_rounds=150)).clicks[:, 0]
    assert not clicked[:150].any()
    assert clicked[150:].all()


def test_positions_that_are_not_looked_at_are_not_clicked() -> None:
    """A click needs examination, and regret counts none where nobody looks."""
    plain = plain_conditions(WORLD, ROUNDS, delay=0)
    blind = replace(plain, theta=np.ones((1, *WORLD.theta.shape)), examination=np.array([1.0, 0.0, 1.0]))
    made = played(blind, slate_size=3)
    assert made.clicks[:, [0, 2]].all()
    assert not made.clicks[:, 1].any()
    assert not made.regret.any()


def test_a_cascade_stops_at_the_first_click() -> None:
    """At most one click a slate, and the expected clicks are those of at least one."""
    conditions = replace(plain_conditions(WORLD, ROUNDS, delay=0), stops_at_click=True)
    made = played(conditions, slate_size=5)
    assert made.clicks.sum(axis=1).max() == 1
    users = stream(WORLD, 1100, ROUNDS, 5)
    for t in (0, 17):
        p = users.weights[t] @ WORLD.theta[users.clusters[t]]
        best = np.sort(p[np.unique(WORLD.lists[users.clusters[t]])])[-5:]
        expected = np.prod(1 - p[made.actions[t]]) - np.prod(1 - best)
        assert made.regret[t] == pytest.approx(expected)


def test_feedback_that_never_arrives_teaches_nothing() -> None:
    """Only what has arrived is learned, whatever the order of arrival."""
    plain = plain_conditions(WORLD, ROUNDS, delay=0)
    never = replace(plain, arrives=np.full(ROUNDS, ROUNDS, np.int64))
    late = replace(plain, arrives=np.where(np.arange(ROUNDS) % 2, ROUNDS, plain.arrives))
    blind, half, told = (played(conditions, name="diag_linucb").actions for conditions in (never, late, plain))
    assert not np.array_equal(blind, told)
    assert not np.array_equal(half, told)
    assert np.array_equal(blind, played(plain_conditions(WORLD, ROUNDS, delay=ROUNDS), name="diag_linucb").actions)


def test_conditions_of_another_horizon_are_refused() -> None:
    """Half of the rounds without conditions would read beyond them."""
    with pytest.raises(ValueError, match="expected those of 400 rounds, got 399"):
        played(plain_conditions(WORLD, ROUNDS - 1, delay=0))

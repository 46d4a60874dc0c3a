"""What must hold for any log: the plain mean on-policy, no bias where the theory says so, bad columns refused."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from bandits.ope import (
    cascade_dr,
    clip_weights,
    direct_method,
    doubly_robust,
    importance_weights,
    independent_ips,
    ips,
    prefix_weights,
    pseudo_inverse,
    replay,
    reward_interaction_ips,
    self_normalised_doubly_robust,
    share_covered,
    shrink_weights,
    smooth_weights,
    snips,
    standard_ips,
    switch_weights,
    tabular_model,
)

rewards = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


@given(rewards=rewards, data=st.data())
def test_own_policy_does_not_earn_its_mean(rewards: list[float], data: st.DataObject) -> None:
    """Where evaluation and logging policy are the same, every weighting estimator is the plain mean of rewards."""
    r = np.array(rewards)
    n = len(r)
    p = np.array(data.draw(st.lists(st.floats(1e-6, 1), min_size=n, max_size=n)))
    w = importance_weights(p, p)
    zero = {"model_reward": np.zeros(n), "model_value": np.zeros(n)}
    tables = np.broadcast_to(r[:, None] / 2, (n, 2))
    ones = np.ones((n, 2))
    found = [
        ips(w, r),
        ips(clip_weights(w, 1), r),
        ips(smooth_weights(w, 0.3), r),
        snips(w, r),
        doubly_robust(w, r, **zero),
        doubly_robust(switch_weights(w, 1), r, **zero),
        doubly_robust(shrink_weights(w, np.inf), r, **zero),
        self_normalised_doubly_robust(w, r, **zero),
        replay(np.arange(n), np.arange(n), r),
        standard_ips(w, tables),
        standard_ips(w, tables, self_normalised=True),
        independent_ips(ones, tables),
        independent_ips(ones, tables, self_normalised=True),
        reward_interaction_ips(ones, tables, self_normalised=True),
        cascade_dr(ones, tables, model_reward=0 * tables, model_value=0 * tables),
        pseudo_inverse(ones, r),
        direct_method(r),
    ]
    for estimate in found:
        assert_allclose(estimate.value, r.mean(), rtol=1e-9, atol=1e-9)
        assert_allclose(estimate.terms.mean(), estimate.value, rtol=1e-9, atol=1e-9)


@given(rewards=rewards, data=st.data())
def test_self_normalised_value_leaves_the_range_of_rewards(rewards: list[float], data: st.DataObject) -> None:
    """SNIPS lies between the smallest and largest reward whatever the weights."""
    r = np.array(rewards)
    w = np.array(data.draw(st.lists(st.floats(0.01, 1e4), min_size=len(r), max_size=len(r))))
    assert r.min() - 1e-9 <= snips(w, r).value <= r.max() + 1e-9


def test_estimator_is_biased_in_simulation() -> None:
    """Over 2,000 logs IPS and DR are within four standard errors of the true value, with a wrong q too."""
    rng = np.random.default_rng(12)
    logged, evaluation, mean = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.2, 0.6]), np.array([0.1, 0.5, 0.8])
    truth, wrong_q = float(evaluation @ mean), np.array([0.4, 0.4, 0.4])
    values: dict[str, list[float]] = {"ips": [], "dr": [], "dm": []}
    for _ in range(2000):
        action = rng.choice(3, size=200, p=logged)
        reward = (rng.random(200) < mean[action]).astype(float)
        w = importance_weights(evaluation[action], logged[action])
        value = np.full(200, evaluation @ wrong_q)
        values["ips"].append(ips(w, reward).value)
        values["dr"].append(doubly_robust(w, reward, model_reward=wrong_q[action], model_value=value).value)
        values["dm"].append(direct_method(value).value)
    for name in ("ips", "dr"):
        error = np.std(values[name]) / np.sqrt(2000)
        assert abs(np.mean(values[name]) - truth) < 4 * error
    assert np.std(values["dr"]) < np.std(values["ips"])
    assert abs(np.mean(values["dm"]) - truth) > 0.1


def _ranking_probability(slate: tuple[int, ...], logits: np.ndarray) -> np.ndarray:
    left = np.exp(logits)
    steps = np.empty(len(slate))
    for slot, item in enumerate(slate):
        steps[slot] = left[item] / left.sum()
        left[item] = 0
    return steps


def test_slate_estimator_is_biased_over_all_slates() -> None:
    """Summed over all slates, SIPS, RIPS and cascade-DR equal the value under cascading rewards; IIPS does not."""
    log, target = np.array([0.0, 0.5, 1.0, -0.5]), np.array([1.0, -0.5, 0.2, 0.7])
    slates = list(permutations(range(4), 3))
    steps_log = np.array([_ranking_probability(s, log) for s in slates])
    steps_target = np.array([_ranking_probability(s, target) for s in slates])
    p_log, p_target = steps_log.prod(axis=1), steps_target.prod(axis=1)
    base = np.array([0.9, 0.2, 0.5, 0.1])[np.array(slates)]
    reward = base * np.cumprod(np.c_[np.ones(24), 1 - base[:, :-1]], axis=1)
    truth = float(p_target @ reward.sum(axis=1))

    prefix = prefix_weights(importance_weights(steps_target, steps_log))
    q = np.random.default_rng(0).random((3, 4))
    q_taken = q[np.arange(3), np.array(slates)]
    left = np.ones((24, 3, 4), dtype=bool)
    for row, slate in enumerate(slates):
        for slot in (1, 2):
            left[row, slot:, slate[slot - 1]] = False
    odds = np.where(left, np.exp(target), 0)
    value = (odds / odds.sum(axis=2, keepdims=True) * q).sum(axis=2)

    def exact(terms: np.ndarray) -> float:
        return float(p_log @ terms)

    assert_allclose(exact(standard_ips(prefix[:, -1], reward).terms), truth, rtol=1e-12)
    assert_allclose(exact(reward_interaction_ips(prefix, reward).terms), truth, rtol=1e-12)
    robust = cascade_dr(prefix, reward, model_reward=q_taken, model_value=value)
    assert_allclose(exact(robust.terms), truth, rtol=1e-12)
    marginal = np.empty((24, 3))
    for slot in range(3):
        for item in range(4):
            rows = np.array([s[slot] == item for s in slates])
            marginal[rows, slot] = p_target[rows].sum() / p_log[rows].sum()
    assert abs(exact(independent_ips(marginal, reward).terms) - truth) > 0.001
    assert_allclose(exact(independent_ips(marginal, base).terms), p_target @ base.sum(axis=1), rtol=1e-12)


def test_pseudo_inverse_is_biased_over_all_slates() -> None:
    """Summed exactly over all slates of a product policy, it equals the value where rewards add up over slots."""
    p_log, p_target = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), np.array([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]])
    worth = np.array([[1.0, 0.0], [0.3, 0.4], [0.0, 2.0]])
    slates = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    slot = np.arange(3)
    chance = p_log[slot, slates].prod(axis=1)
    w = importance_weights(p_target[slot, slates], p_log[slot, slates])
    terms = pseudo_inverse(w, worth[slot, slates].sum(axis=1)).terms
    assert_allclose(chance @ terms, (p_target * worth).sum(), rtol=1e-12)


GOOD: dict[str, Any] = {"weight": [1.0, 2.0], "reward": [0.0, 1.0]}
MODEL: dict[str, Any] = {"model_reward": [0.1, 0.2], "model_value": [0.1, 0.2]}
PAIR: dict[str, Any] = {"evaluation": [0.1, 0.2], "logged": [0.3, 0.4]}
SLATE: dict[str, Any] = {"prefix_weight": [[1.0, 2.0]], "reward": [[0.0, 1.0]]}
TABLES: dict[str, Any] = {"evaluation": [[0.5, 0.5]], "logged": [[0.5, 0.5]]}
REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str, Any, str]] = [
    (ips, GOOD, "reward", [0.0, np.nan], "finite numbers, got nan at 1"),
    (ips, GOOD, "weight", [0.0, np.inf], "finite numbers, got inf at 1"),
    (ips, GOOD, "weight", [-1.0, 1.0], "weights >= 0, got -1.0 at 0"),
    (ips, GOOD, "weight", [1.0], r"shape \(2,\)"),
    (ips, GOOD, "reward", [], "at least one round"),
    (snips, GOOD, "reward", [[0.0, 1.0]], r"1 dimension\(s\)"),
    (doubly_robust, GOOD | MODEL, "model_reward", [0.1], r"shape \(2,\)"),
    (self_normalised_doubly_robust, GOOD | MODEL, "model_value", [0.1, np.nan], "finite numbers"),
    (importance_weights, PAIR, "logged", [0.3, -0.1], r"probabilities in \[0, 1\], got -0.1 at 1"),
    (importance_weights, PAIR, "logged", [1.5, 0.4], r"probabilities in \[0, 1\], got 1.5 at 0"),
    (importance_weights, PAIR, "evaluation", [0.3, 1.1], r"probabilities in \[0, 1\]"),
    (importance_weights, PAIR, "evaluation", [np.nan, 0.1], "finite numbers"),
    (importance_weights, PAIR, "evaluation", [0.1], r"shape \(2,\)"),
    (share_covered, TABLES, "evaluation", [[0.5, 0.4]], "rows that sum to 1, got 0.9"),
    (share_covered, TABLES, "logged", [[0.5]], r"shape \(1, 2\)"),
    (clip_weights, {"weight": [1.0], "limit": 1.0}, "limit", -1.0, "a number >= 0, got -1.0"),
    (switch_weights, {"weight": [1.0], "limit": 1.0}, "limit", np.nan, "a number >= 0, got nan"),
    (shrink_weights, {"weight": [1.0], "strength": 1.0}, "strength", -1.0, "a number >= 0"),
    (smooth_weights, {"weight": [1.0], "strength": 1.0}, "strength", 1.1, r"a number in \[0, 1\]"),
    (replay, {"evaluation_action": [1], "logged_action": [1], "reward": [1.0]}, "logged_action", [1, 2], "shape"),
    (cascade_dr, SLATE | {k: [v] for k, v in MODEL.items()}, "model_reward", [[0.1]], r"shape \(1, 2\)"),
    (reward_interaction_ips, SLATE, "prefix_weight", [[1.0, np.nan]], r"finite numbers, got nan at \(0, 1\)"),
    (pseudo_inverse, {"slot_weight": [[1.0]], "slate_reward": [1.0]}, "slate_reward", [1.0, 2.0], "shape"),
]


@pytest.mark.parametrize(("function", "good", "name", "bad", "says"), REFUSED)
def test_bad_column_is_averaged(
    function: Callable[..., Any], good: dict[str, Any], name: str, bad: Any, says: str
) -> None:
    """NaN, infinity, negative or too large probabilities and unequal lengths are refused, naming the argument."""
    function(**good)
    with pytest.raises(ValueError, match=rf"^({name}|weight): expected .*{says}"):
        function(**(good | {name: bad}))


def test_tabular_model_forgets_the_overall_mean() -> None:
    """Unseen actions get the overall mean, seen ones are drawn to it; numbers out of range are refused by name."""
    columns: dict[str, Any] = {"action": [0, 0, 1], "position": [0, 0, 1], "reward": [1.0, 1.0, 0.0]}
    q = tabular_model(**columns, n_actions=3, n_positions=2, strength=1.0)
    assert_allclose(q, [[(2 + 2 / 3) / 3, 2 / 3], [2 / 3, 1 / 3], [2 / 3, 2 / 3]])
    for name, bad in (("action", [0, 0, 3]), ("position", [0, -1, 0]), ("action", [0.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            tabular_model(**(columns | {name: bad}), n_actions=3, n_positions=2)
    with pytest.raises(ValueError, match="strength: expected"):
        tabular_model(**columns, n_actions=3, n_positions=2, strength=0)

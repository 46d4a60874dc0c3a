"""Values of single-action estimators against an independent library and against arithmetic by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import (
    NoSupport,
    RunningSums,
    clip_weights,
    direct_method,
    doubly_robust,
    expected_reward,
    importance_weights,
    ips,
    normal_interval,
    pseudo_inverse,
    replay,
    self_normalised_doubly_robust,
    shrink_weights,
    smooth_weights,
    snips,
    switch_weights,
)


@pytest.fixture
def small(golden: dict[str, Any]) -> dict[str, Any]:
    inputs = {name: np.array(column) for name, column in golden["obp_ope_small"]["inputs"].items()}
    n, action, position = len(inputs["reward"]), inputs["action"], inputs["position"]
    pi = inputs["action_dist"][np.arange(n), :, position]
    q = inputs["q_hat"][np.arange(n), :, position]
    return {
        "reward": inputs["reward"],
        "action": action,
        "weight": importance_weights(pi[np.arange(n), action], inputs["pscore"]),
        "model": {"model_reward": q[np.arange(n), action], "model_value": expected_reward(pi, q)},
        "expected": golden["obp_ope_small"]["expected"],
    }


ESTIMATORS = {
    "IPW": lambda w, r, model: ips(w, r),
    "IPW_clip2": lambda w, r, model: ips(clip_weights(w, 2), r),
    "SNIPW": lambda w, r, model: snips(w, r),
    "DM": lambda w, r, model: direct_method(model["model_value"]),
    "DR": lambda w, r, model: doubly_robust(w, r, **model),
    "DR_clip2": lambda w, r, model: doubly_robust(clip_weights(w, 2), r, **model),
    "SNDR": lambda w, r, model: self_normalised_doubly_robust(w, r, **model),
    "SwitchDR_1": lambda w, r, model: doubly_robust(switch_weights(w, 1), r, **model),
    "DRos_1": lambda w, r, model: doubly_robust(shrink_weights(w, 1), r, **model),
    "SGIPW_0.1": lambda w, r, model: ips(smooth_weights(w, 0.1), r),
    "SGDR_0.1": lambda w, r, model: doubly_robust(smooth_weights(w, 0.1), r, **model),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_differs_from_the_independent_library(name: str, small: dict[str, Any]) -> None:
    """Value and every per-round term equal the reference to 1e-9, and the value is the mean of the terms."""
    estimate = ESTIMATORS[name](small["weight"], small["reward"], small["model"])
    expected = small["expected"][name]
    assert_allclose(estimate.value, expected["value"], rtol=0, atol=1e-9)
    assert_allclose(estimate.terms, expected["per_round"], rtol=0, atol=1e-9)
    assert_allclose(estimate.terms.mean(), estimate.value, rtol=0, atol=1e-12)
    assert_allclose(estimate.influence.mean(), estimate.value, rtol=0, atol=1e-12)


def test_replay_averages_rounds_where_policies_disagree(small: dict[str, Any]) -> None:
    """Replay is the mean reward of the rounds where the evaluation policy chose the logged action."""
    wanted = np.array(small["expected"]["Replay"]["eval_action"])
    estimate = replay(wanted, small["action"], small["reward"])
    assert_allclose(estimate.value, small["expected"]["Replay"]["value"], rtol=0, atol=1e-12)
    assert (estimate.terms[wanted != small["action"]] == 0).all()
    with pytest.raises(NoSupport, match="evaluation_action: it never equals"):
        replay(small["action"] + 1, small["action"], small["reward"])


def test_hand_checkable_rows_change(golden: dict[str, Any]) -> None:
    """IPS, SNIPS and the one-slot pseudo-inverse equal the closed form, after every single example."""
    for row in golden["ope_closed_form"]["rows"]:
        w = importance_weights(row["p_pred"], row["p_log"])
        r = np.array(row["r"], dtype=float)
        assert_allclose(ips(w, r).value, row["ips"], rtol=1e-12)
        assert_allclose(snips(w, r).value, row["snips"], rtol=1e-12)
        for n in range(1, len(r) + 1):
            assert_allclose(pseudo_inverse(w[:n, None], r[:n]).value, ips(w[:n], r[:n]).value, rtol=1e-12)


def _generated(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    odd = np.arange(n) % 2 == 1
    if name == "constant_0.751":
        return np.ones(n), np.full(n, 0.751)
    even_weight = {"alternating_0.2": 0.4, "alternating_0.8": 1.6}[name]
    return np.where(odd, 2 - even_weight, even_weight), np.where(odd, 0.0, 1.0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_long_generated_log_drifts_from_its_value(golden: dict[str, Any], at: int) -> None:
    """Values stay exact over a million rounds; the normal interval lies where it must, also at variance 0."""
    case = golden["ope_closed_form"]["generated"][at]
    w, r = _generated(case["name"], case["n"])
    low, high = case["interval_must_lie_in"]
    for estimate, expected in ((ips(w, r), case["ips"]), (snips(w, r), case["snips"])):
        assert_allclose(estimate.value, expected, rtol=0, atol=1e-12)
        interval = normal_interval(estimate.influence)
        assert low <= interval.low <= expected + 1e-12
        assert expected - 1e-12 <= interval.high <= high


def test_thinned_log_is_not_undone(golden: dict[str, Any]) -> None:
    """A round that was kept with probability 1/2 counts twice when its weight is divided by that probability."""
    case = golden["ope_closed_form"]["generated"][3]
    kept = np.repeat([1.0, 0.5], [1000, 500])
    reward = np.repeat([1.0, 0.0], [1000, 500])
    assert_allclose(snips(1 / kept, reward).value, case["expected"], rtol=1e-12)


def test_sums_of_two_parts_differ_from_the_whole() -> None:
    """Sums over 1,000 rounds merged with sums over 2,000 give the estimates and intervals of all 3,000."""
    rng = np.random.default_rng(3)
    w, r = rng.exponential(size=3000), rng.normal(size=3000)
    merged = RunningSums.of(w[:1000], r[:1000]) + RunningSums.of(w[1000:], r[1000:]) + RunningSums()
    assert_allclose(merged.ips, ips(w, r).value, rtol=1e-10)
    assert_allclose(merged.snips, snips(w, r).value, rtol=1e-10)
    assert_allclose(merged.ips_interval(), normal_interval(ips(w, r).influence), rtol=1e-10)
    assert_allclose(merged.snips_interval(), normal_interval(snips(w, r).influence), rtol=1e-10)
    assert merged.support.rounds == 3000
    assert merged.support.max_weight == w.max()


def test_switch_limits_are_not_its_two_parents(golden: dict[str, Any]) -> None:
    """Switch and Switch-DR are DM below the smallest weight; from the largest on they are IPS and DR."""
    case = {name: np.array(column) for name, column in golden["ope_closed_form"]["switch"].items()}
    rows = np.arange(len(case["action"]))
    pi, logged = case["target_probs"], case["log_probs"]
    w = importance_weights(pi[rows, case["action"]], logged[rows, case["action"]])
    model = {"model_reward": case["q_hat"][rows, case["action"]], "model_value": expected_reward(pi, case["q_hat"])}
    r = case["reward"]
    assert_allclose(ips(w, r).value, case["ips"], rtol=1e-12)
    assert_allclose(direct_method(model["model_value"]).value, case["dm"], rtol=1e-12)
    assert_allclose(doubly_robust(w, r, **model).value, case["dr"], rtol=1e-12)
    assert_allclose(doubly_robust(switch_weights(w, w.max()), r, **model).value, case["dr"], rtol=1e-12)
    assert_allclose(doubly_robust(switch_weights(w, w.min() / 2), r, **model).value, case["dm"], rtol=1e-12)
    table = importance_weights(pi, logged)
    for limit, expected in ((table.max(), case["ips"]), (table.min() / 2, case["dm"])):
        beyond = expected_reward(np.where(table > limit, pi, 0), case["q_hat"])
        switched = doubly_robust(switch_weights(w, limit), r, model_reward=0 * r, model_value=beyond)
        assert_allclose(switched.value, expected, rtol=1e-12)


def test_mild_setting_still_changes_weights() -> None:
    """Every transformation has the setting at which it does nothing, and the one at which DRos drops the log."""
    w = np.array([0.0, 0.3, 1.0, 50.0, 1e6])
    for same in (
        clip_weights(w, np.inf),
        switch_weights(w, np.inf),
        shrink_weights(w, np.inf),
        smooth_weights(w, 0),
    ):
        assert_allclose(same, w, rtol=0, atol=0)
    assert (shrink_weights(w, 0) == 0).all()
    assert_allclose(smooth_weights(w, 1), [0, 1, 1, 1, 1])

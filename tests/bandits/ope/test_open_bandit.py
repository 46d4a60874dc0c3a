"""Estimates on real logs of a fashion shop (Open Bandit data, 10,000 rounds) against an independent library."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import (
    Estimate,
    NoSupport,
    bootstrap_intervals,
    clip_weights,
    confidence_interval,
    direct_method,
    doubly_robust,
    importance_weights,
    ips,
    measure_support,
    normal_interval,
    reasons_to_refuse,
    require_support,
    self_normalised_doubly_robust,
    share_covered,
    shrink_weights,
    smooth_weights,
    snips,
    switch_weights,
)

CASES = [f"{e}_from_{p}_all" for e in ("bts", "random") for p in ("random", "bts")]


def _plain(case: Any) -> dict[str, Estimate]:
    w, r = case.weight, case.reward
    return {
        "ipw": ips(w, r),
        "ipw_clip10": ips(clip_weights(w, 10), r),
        "ipw_clip100": ips(clip_weights(w, 100), r),
        "snipw": snips(w, r),
        "sgipw_0.01": ips(smooth_weights(w, 0.01), r),
    }


def _with_model(case: Any, model: str, q: np.ndarray, v: np.ndarray) -> dict[str, Estimate]:
    w, r = case.weight, case.reward
    predicted = {"model_reward": q, "model_value": v}
    found = {
        "dm": direct_method(v),
        "dr": doubly_robust(w, r, **predicted),
        "dr_clip10": doubly_robust(clip_weights(w, 10), r, **predicted),
        "sndr": self_normalised_doubly_robust(w, r, **predicted),
        "switch_dr_10": doubly_robust(switch_weights(w, 10), r, **predicted),
        "dros_100": doubly_robust(shrink_weights(w, 100), r, **predicted),
        "sgdr_0.01": doubly_robust(smooth_weights(w, 0.01), r, **predicted),
    }
    return {f"{name}|{model}": estimate for name, estimate in found.items()}


def _estimates(case: Any) -> dict[str, Estimate]:
    found = _plain(case) | _with_model(case, "tabular_m100", case.q_tabular, case.v_tabular)
    if case.v_fitted is not None:
        found |= _with_model(case, "lr3fold", case.q_fitted, case.v_fitted)
    return found


@pytest.mark.parametrize("name", CASES)
def test_estimate_on_a_real_log_differs(name: str, golden: dict[str, Any], cases: dict[str, Any]) -> None:
    """Every estimate that the logs allow to recompute equals the reference to 1e-9, and so do the diagnostics."""
    expected, case = golden["ope_reference"][name], cases[name]
    estimates = _estimates(case)
    assert len(estimates) == (12 if case.v_fitted is None else 19)
    for estimator, estimate in estimates.items():
        assert_allclose(
            estimate.value, expected["estimates"][estimator]["value"], rtol=0, atol=1e-9, err_msg=estimator
        )
    for estimator, (low, high) in expected["normal95"].items():
        if estimator in estimates:
            interval = normal_interval(estimates[estimator].influence)
            # For SNIPS the reference divides the variance by n, for all others by n - 1.
            width = np.sqrt(9_999 / 10_000) if estimator == "snipw" else 1.0
            middle = estimates[estimator].value
            ours = [middle + width * (end - middle) for end in interval]
            assert_allclose(ours, (low, high), rtol=0, atol=1e-9, err_msg=estimator)
    support = measure_support(case.weight)
    assert_allclose(support.effective_rounds, expected["ess"], rtol=1e-9)
    assert_allclose(support.mean_weight, expected["w_mean"], rtol=1e-9)
    assert_allclose(support.max_weight, expected["w_max"], rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_correction_by_a_fitted_model_differs(name: str, golden: dict[str, Any], cases: dict[str, Any]) -> None:
    """The doubly robust correction, estimate less direct method, equals the reference, for all four logs."""
    expected, case = golden["ope_reference"][name]["estimates"], cases[name]
    for estimator, estimate in _with_model(case, "lr3fold", case.q_fitted, np.zeros(10_000)).items():
        if not estimator.startswith("dm"):
            correction = expected[estimator]["value"] - expected["dm|lr3fold"]["value"]
            assert_allclose(estimate.value, correction, rtol=0, atol=1e-9, err_msg=estimator)


@pytest.mark.parametrize("name", CASES)
def test_bootstrap_bounds_on_a_real_log_move(name: str, golden: dict[str, Any], cases: dict[str, Any]) -> None:
    """Percentile bounds agree with the reference's 2,000 resamples to 5 % of the width."""
    estimates = _estimates(cases[name])
    rows = np.stack([estimate.influence for estimate in estimates.values()])
    intervals = bootstrap_intervals(rows, rng=np.random.default_rng(1), resamples=10_000)
    for estimator, interval in zip(estimates, intervals, strict=True):
        expected = golden["ope_reference"][name]["estimates"][estimator]
        low, high = expected["boot95_lo"], expected["boot95_hi"]
        assert_allclose(interval, (low, high), rtol=0, atol=0.05 * (high - low), err_msg=estimator)


@pytest.mark.parametrize("name", CASES)
def test_interval_misses_the_truth_on_a_real_log(name: str, golden: dict[str, Any], cases: dict[str, Any]) -> None:
    """The anytime interval contains what the evaluation policy really earned, and is wider than the normal one."""
    case, truth = cases[name], golden["ope_reference"][name]["ground_truth_on_policy"]
    anytime = confidence_interval(case.weight, case.reward)
    normal = normal_interval(ips(case.weight, case.reward).influence)
    assert anytime.low <= truth <= anytime.high
    assert anytime.high - anytime.low > normal.high - normal.low


def test_sound_real_log_is_refused(cases: dict[str, Any]) -> None:
    """Uniform logging of 80 items supports every policy over them; so does the Thompson log of campaign all."""
    for case in cases.values():
        covered = share_covered(case.evaluation / case.evaluation.sum(axis=1, keepdims=True), case.covered_log)
        assert reasons_to_refuse(measure_support(case.weight, covered=covered)) == ()


def test_one_round_carries_the_whole_estimate(women_propensity: np.ndarray) -> None:
    """Campaign women, logged with a propensity of 1e-6, has an effective sample size of 2 and is refused."""
    weight = importance_weights(np.full(10_000, 1 / 46), women_propensity)
    support = measure_support(weight)
    assert 2.0 < support.effective_rounds < 2.1
    with pytest.raises(NoSupport, match=r"effective sample size 2\.1 of 10000 rounds, expected at least 100"):
        require_support(support)

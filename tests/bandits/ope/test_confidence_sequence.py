"""The anytime-valid interval against its reference implementation, its definition, and repeated looking."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import ConfidenceSequence, confidence_interval, normal_interval
from bandits.ope.confidence_sequence import Method
from bandits.ope.lower_bounds import RobustBound

METHODS: tuple[Method, ...] = ("robust", "bernstein")


def test_bernstein_interval_differs_from_the_reference(golden: dict[str, Any]) -> None:
    """4,000 rounds with small weights give the published interval to its stated tolerance."""
    case = golden["vw_confidence_sequence"]["anytime_valid_ci"][0]
    r = np.tile([0.5, 0.6, 0.7, 0.8], 1000)
    interval = confidence_interval(r, r, alpha=case["alpha"], method="bernstein")
    assert_allclose(interval, (case["lb"], case["ub"]), rtol=0, atol=case["tol"])


def test_robust_interval_differs_from_the_reference(golden: dict[str, Any]) -> None:
    """88 rounds with weights up to 44 give the published interval to its stated tolerance.

    The reference test calls its interval with alpha = 0.05 / 16, which its threshold of 6.46147 = log(32 / 0.05)
    confirms; the golden file states 0.05.
    """
    case = golden["vw_confidence_sequence"]["anytime_valid_ci"][1]
    w, r = np.array(case["w_r"]).T
    interval = confidence_interval(w, r, alpha=case["alpha"] / 16, method="robust")
    assert_allclose(interval, (case["lb"], case["ub"]), rtol=0, atol=case["tol"])


@pytest.mark.parametrize("method", METHODS)
def test_chunk_size_moves_the_interval(method: Method) -> None:
    """Rounds fed one by one, in odd chunks or at once give the same interval."""
    rng = np.random.default_rng(5)
    w, r = rng.pareto(2.0, size=300), rng.random(300)
    whole = confidence_interval(w, r, method=method)
    for step in (1, 7):
        sequence = ConfidenceSequence(method=method)
        for start in range(0, 300, step):
            sequence.add(w[start : start + step], r[start : start + step])
        assert_allclose(sequence.interval(), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("method", "max_weight"), [("robust", None), ("robust", 25.0), ("bernstein", None)])
def test_repeated_looks_miss_the_value_too_often(method: Method, max_weight: float | None) -> None:
    """Looked at 10 times in 200 runs, at most 5 % of the runs ever miss the value; a normal interval, over 20 %."""
    rng = np.random.default_rng(11)
    runs, n, missed, missed_by_normal = 200, 1000, 0, 0
    for _ in range(runs):
        logged = np.where(rng.random(n) < 0.02, 0.02, 0.98)
        w = 0.5 / logged
        reward = (rng.random(n) < np.where(logged == 0.02, 0.8, 0.2)).astype(float)
        sequence = ConfidenceSequence(max_weight=max_weight, method=method)
        ever = ever_by_normal = False
        for start in range(0, n, 100):
            sequence.add(w[start : start + 100], reward[start : start + 100])
            low, high = sequence.interval(alpha=0.05)
            ever |= not low <= 0.5 <= high
            low, high = normal_interval((w * reward)[: start + 100])
            ever_by_normal |= not low <= 0.5 <= high
        missed += ever
        missed_by_normal += ever_by_normal
    assert missed <= 0.05 * runs
    assert missed_by_normal > 0.2 * runs


def test_heavy_weights_ruin_the_robust_interval() -> None:
    """With weights of 50 the robust interval is the narrower one, and it does narrow with more rounds."""
    rng = np.random.default_rng(2)
    n = 20_000
    w = np.where(rng.random(n) < 0.02, 50.0, 0.0)
    reward = (rng.random(n) < 0.3).astype(float)
    width = {m: np.subtract(*confidence_interval(w, reward, method=m)[::-1]) for m in METHODS}
    early = np.subtract(*confidence_interval(w[:2000], reward[:2000])[::-1])
    assert width["robust"] < width["bernstein"]
    assert width["robust"] < 0.5 * early


def test_known_bound_on_weights_is_wasted() -> None:
    """At a click rate of 0.4 % and weights of 20, stating their bound cuts the upper end by more than half."""
    rng = np.random.default_rng(6)
    w = np.where(rng.random(10_000) < 0.05, 20.0, 0.0)
    reward = (rng.random(10_000) < 0.004).astype(float)
    plain, bounded = confidence_interval(w, reward), confidence_interval(w, reward, max_weight=20)
    assert bounded.low == plain.low
    assert 0.004 <= bounded.high < 0.5 * plain.high
    with pytest.raises(ValueError, match=r"weight: expected at most 10\.0 \(max_weight\), got 20\.0"):
        confidence_interval(w, reward, max_weight=10)


def test_histogram_undercharges_large_errors() -> None:
    """The binned cost of errors above 1 is never below the exact one, and within 1 % of it."""
    x = np.concatenate([[0.0], np.geomspace(3.0, 1e9, 400)])
    bound = RobustBound()
    bound.add(x)
    before = np.concatenate(([0.0], np.cumsum(x)[:-1]))
    error = x - np.minimum(1.0, (before + 0.5) / np.arange(1, len(x) + 1))
    scaled = bound._bet[:, None] * error[error > 1]
    exact = (scaled - np.log1p(scaled)).sum(axis=1) + 0.5 * bound._bet**2 * 0.25 / (1 - bound._bet)
    assert (bound._cost() >= exact * (1 - 1e-12) - 1e-12).all()
    assert_allclose(bound._cost(), exact, rtol=0.01, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_reward_range_does_not_carry_over(method: Method) -> None:
    """Shifting and stretching rewards and range does the same to the interval; nothing seen, nothing claimed."""
    rng = np.random.default_rng(9)
    w, r = rng.exponential(size=500), rng.random(500)
    unit = confidence_interval(w, r, method=method)
    moved = confidence_interval(w, 10 * r - 4, reward_low=-4, reward_high=6, method=method)
    assert_allclose(moved, [10 * end - 4 for end in unit], rtol=0, atol=1e-9)
    assert ConfidenceSequence(reward_low=-4, reward_high=6, method=method).interval() == (-4, 6)


def test_impossible_settings_are_taken() -> None:
    """Rewards outside the stated range, an empty range, an unknown method and alpha = 0 are refused by name."""
    with pytest.raises(ValueError, match=r"reward: expected 0\.0 to 1\.0"):
        confidence_interval([1.0], [1.5])
    with pytest.raises(ValueError, match="reward_low, reward_high: expected low < high"):
        ConfidenceSequence(reward_low=1, reward_high=1)
    with pytest.raises(ValueError, match="method: expected"):
        ConfidenceSequence(method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_weight: expected a number >= 1 or None"):
        ConfidenceSequence(max_weight=0.5)
    with pytest.raises(ValueError, match="alpha: expected a number between 0 and 1"):
        confidence_interval([1.0], [1.0], alpha=0)

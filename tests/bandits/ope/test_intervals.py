"""Intervals of fixed sample size: coverage, pairing, seeds, memory bound."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import bootstrap_intervals, bootstrap_means, intervals, normal_interval, snips


def test_bootstrap_draws_from_elsewhere() -> None:
    """The same generator state gives the same means, another seed does not."""
    terms = np.random.default_rng(0).normal(size=(2, 50))
    first, again, other = (bootstrap_means(terms, rng=np.random.default_rng(s), resamples=20) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_memory_bound_changes_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resampling in chunks of any size draws the same rounds."""
    terms = np.random.default_rng(0).normal(size=(1, 30))
    whole = bootstrap_means(terms, rng=np.random.default_rng(1), resamples=100)
    monkeypatch.setattr(intervals, "COUNTS_AT_ONCE", 70)
    assert_allclose(bootstrap_means(terms, rng=np.random.default_rng(1), resamples=100), whole, rtol=1e-12)


def test_rows_are_resampled_apart() -> None:
    """Rows share their rounds: the difference of a row and itself plus one is one in every resample."""
    terms = np.random.default_rng(0).normal(size=50)
    low, high = bootstrap_means([terms, terms + 1], rng=np.random.default_rng(1), resamples=50)
    assert_allclose(high - low, 1.0, rtol=1e-12)


def test_bootstrap_and_normal_bounds_disagree_on_plain_data() -> None:
    """On many rounds with thin tails both kinds agree to 5 % of the width."""
    terms = np.random.default_rng(0).random(2000)
    normal = normal_interval(terms)
    [percentile] = bootstrap_intervals([terms], rng=np.random.default_rng(1), resamples=4000)
    assert_allclose(percentile, normal, rtol=0, atol=0.05 * (normal.high - normal.low))


def test_normal_interval_of_a_ratio_ignores_its_denominator() -> None:
    """Over 400 logs the interval over SNIPS's influence terms covers the value about 95 times in 100."""
    rng = np.random.default_rng(8)
    covered = {"terms": 0, "influence": 0}
    for _ in range(400):
        action = (rng.random(600) < 0.2).astype(int)
        weight = np.array([0.5 / 0.8, 0.5 / 0.2])[action]
        reward = 1.0 + (rng.random(600) < np.array([0.2, 0.6])[action])
        estimate = snips(weight, reward)
        for kind in covered:
            low, high = normal_interval(getattr(estimate, kind))
            covered[kind] += low <= 1.4 <= high
    assert 370 <= covered["influence"] <= 392
    assert covered["terms"] == 400


def test_impossible_interval_settings_are_taken() -> None:
    """One round, alpha outside (0, 1), no resamples and NaN are refused by name."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="terms: expected at least 2"):
        normal_interval([1.0])
    with pytest.raises(ValueError, match="alpha: expected a number between 0 and 1, got 1"):
        normal_interval([1.0, 2.0], alpha=1)
    with pytest.raises(ValueError, match="resamples: expected 1 to"):
        bootstrap_means([[1.0, 2.0]], rng=rng, resamples=0)
    with pytest.raises(ValueError, match="terms: expected finite numbers, got nan"):
        bootstrap_intervals([[1.0, np.nan]], rng=rng)

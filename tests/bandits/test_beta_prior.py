import numpy as np
import pytest

from bandits.beta_prior import FEWEST_ITEMS, BetaPrior, fit_beta_prior, log_likelihood
from bandits.policies import PolicySettings


def _simulate(a0: float, b0: float, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(100, 2_000, items)
    return n.astype(float), rng.binomial(n, rng.beta(a0, b0, items)).astype(float)


@pytest.mark.parametrize(("a0", "b0"), [(2.0, 38.0), (0.5, 2.0), (30.0, 30.0), (0.8, 120.0)])
def test_the_prior_that_made_the_counts_is_recovered(a0: float, b0: float) -> None:
    """From 4,000 simulated items the fit finds mean and strength within a tenth."""
    prior = fit_beta_prior(*_simulate(a0, b0, 4_000, seed=3))
    assert prior.fitted
    assert prior.items == 4_000
    assert prior.a0 / (prior.a0 + prior.b0) == pytest.approx(a0 / (a0 + b0), rel=0.1)
    assert prior.a0 + prior.b0 == pytest.approx(a0 + b0, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_a_grid_is_likelier_than_the_fit(seed: int) -> None:
    """The fit is at least as likely as every point of a fine grid around and far from it."""
    n, s = _simulate(1.5, 20.0, 60, seed)
    prior = fit_beta_prior(n, s)
    best = log_likelihood(prior.a0, prior.b0, n, s)
    grid = np.geomspace(0.02, 50, 120)
    near = [f * prior.a0 for f in (0.999, 1.001)], [f * prior.b0 for f in (0.999, 1.001)]
    points = [(a, b) for a in grid for b in 10 * grid] + [(a, b) for a in near[0] for b in near[1]]
    assert best >= max(log_likelihood(a, b, n, s) for a, b in points)


def test_the_order_of_items_does_not_matter() -> None:
    """The same items in another order give the same bits."""
    n, s = _simulate(2.0, 30.0, 200, seed=5)
    order = np.random.default_rng(0).permutation(200)
    assert fit_beta_prior(n, s) == fit_beta_prior(n[order], s[order])


def test_immature_items_are_left_out() -> None:
    """Items below min_impressions change nothing."""
    n, s = _simulate(2.0, 30.0, 200, seed=5)
    more = fit_beta_prior(np.append(n, [99, 0, 5]), np.append(s, [99, 0, 0]), min_impressions=100)
    assert more == fit_beta_prior(n, s)


def test_without_data_the_prior_is_flat() -> None:
    """No mature item: Beta(1, 1), not fitted."""
    assert fit_beta_prior([], []) == BetaPrior(1.0, 1.0, 0, fitted=False)


def test_too_few_or_equal_items_get_the_weak_prior() -> None:
    """Strength 2 around the pooled rate."""
    few = fit_beta_prior([1000.0] * (FEWEST_ITEMS - 1), np.arange(FEWEST_ITEMS - 1.0))
    equal = fit_beta_prior([1000.0] * 50, [100.0] * 50)
    assert not few.fitted
    assert not equal.fitted
    assert equal.a0 == pytest.approx(2 * (5_000.5 / 50_001))
    assert equal.a0 + equal.b0 == pytest.approx(2.0)
    assert few.a0 + few.b0 == pytest.approx(2.0)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_every_fit_is_a_valid_setting(rate: float) -> None:
    """Items that nobody or everybody clicked still give a prior that the settings take."""
    n = np.full(1_000, 1e6)
    for s in (n * rate, np.append(n[1:] * rate, 1.0)):
        prior = fit_beta_prior(n, s)
        assert PolicySettings(beta_prior=(prior.a0, prior.b0)).beta_prior[0] > 0


@pytest.mark.parametrize(
    ("n", "s", "named"),
    [([1.0], [1.0, 2.0], "equal 1-d shapes"), ([np.nan], [0.0], "finite counts"), ([-1.0], [0.0], "finite counts")],
)
def test_bad_counts_are_refused(n: list[float], s: list[float], named: str) -> None:
    """The error names what was expected."""
    with pytest.raises(ValueError, match=named):
        fit_beta_prior(n, s)


def test_a_maturity_of_nothing_is_refused() -> None:
    """Without impressions there is no rate."""
    with pytest.raises(ValueError, match="min_impressions: expected more than 0, got 0"):
        fit_beta_prior([1.0], [1.0], min_impressions=0)

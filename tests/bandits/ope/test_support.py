"""What a log cannot answer is refused, with the reason."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import (
    NoSupport,
    RunningSums,
    importance_weights,
    measure_support,
    reasons_to_refuse,
    require_support,
    self_normalised_doubly_robust,
    share_covered,
    snips,
)


def test_equal_weights_are_not_a_full_sample() -> None:
    """n equal weights have an effective sample size of n, one lone weight has 1, and zeros have 0."""
    assert measure_support(np.ones(250)).effective_rounds == 250
    assert measure_support([0.0, 0.0, 3.0]).effective_rounds == 1
    assert measure_support([0.0, 0.0]).effective_rounds == 0
    assert measure_support([1.0, 3.0]).mean_weight_error == pytest.approx(1.0)


@pytest.mark.parametrize("missing", [0.0, np.nan])
def test_round_without_a_propensity_is_divided_by_zero(missing: float) -> None:
    """A logged propensity of zero or none at all is refused, with the number of rounds and the first of them."""
    with pytest.raises(NoSupport, match=r"logged: .* missing or zero in 2 of 4 \(first at 1\)"):
        importance_weights([0.5, 0.5, 0.5, 0.0], [0.5, missing, 0.5, missing])


def test_policy_outside_the_log_is_answered() -> None:
    """Mass on actions that the log never took shows in the covered share and in the mean weight."""
    evaluation = np.tile([0.5, 0.3, 0.2], (1000, 1))
    logged = np.tile([0.5, 0.5, 0.0], (1000, 1))
    covered = share_covered(evaluation, logged)
    assert covered == pytest.approx(0.8)
    action = np.arange(1000) % 2
    weight = importance_weights(evaluation[0, action], logged[0, action])
    reasons = reasons_to_refuse(measure_support(weight, covered=covered))
    assert len(reasons) == 2
    assert "covers 80.00% of what the evaluation policy does" in reasons[0]
    assert "mean weight 0.8" in reasons[1]
    assert "acts where the log has no support" in reasons[1]


def test_wrong_propensities_pass() -> None:
    """A mean weight far above 1 says that the logged propensities are too small."""
    with pytest.raises(NoSupport, match=r"mean weight 1\.5 .* logged propensities are too small"):
        require_support(measure_support(np.full(1000, 1.5)))


def test_stated_bounds_are_ignored() -> None:
    """The caller's own bounds replace the defaults, and a sound log passes them all."""
    support = measure_support(np.ones(50), covered=0.9)
    assert len(reasons_to_refuse(support)) == 2
    assert reasons_to_refuse(support, min_effective_rounds=50, min_covered=0.9) == ()
    with pytest.raises(NoSupport, match=r"effective sample size .*; the log covers"):
        require_support(support)
    require_support(measure_support(np.ones(100), covered=1.0))


def test_unlucky_sound_log_is_refused() -> None:
    """Of 200 logs of a policy with full support, none is refused: noise of the mean weight is no reason."""
    rng = np.random.default_rng(4)
    logged, evaluation = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    for _ in range(200):
        action = (rng.random(2000) < logged[1]).astype(int)
        assert reasons_to_refuse(measure_support(evaluation[action] / logged[action])) == ()


def test_nothing_in_common_gives_a_number() -> None:
    """Where no round has weight, self-normalised estimates and running sums refuse instead of returning NaN."""
    zeros, ones = np.zeros(5), np.ones(5)
    with pytest.raises(NoSupport, match="weight: zero in all 5 rounds"):
        snips(zeros, ones)
    with pytest.raises(NoSupport, match="weight: zero in all 5 rounds"):
        self_normalised_doubly_robust(zeros, ones, model_reward=ones, model_value=ones)
    with pytest.raises(NoSupport, match="nothing to average"):
        _ = RunningSums.of(zeros, ones).snips
    with pytest.raises(NoSupport, match="nothing to average"):
        _ = RunningSums().ips
    with pytest.raises(NoSupport, match="at least one"):
        _ = RunningSums().support
    with pytest.raises(NoSupport, match="at least 2"):
        RunningSums.of([1.0], [1.0]).ips_interval()
    assert_allclose(RunningSums.of(zeros, ones).ips, 0.0)

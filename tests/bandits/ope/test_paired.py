"""Sums of slates under two policies equal what is computed from the whole log."""

import numpy as np
import pytest

from bandits.ope.paired import PairedSums
from bandits.ope.support import NoSupport


def slates(seed: int, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, count)
    return [rng.exponential(size=n) for n in sizes], [(rng.random(n) < 0.3).astype(float) for n in sizes]


def test_parts_add_up_to_the_whole() -> None:
    """Merged in any grouping, the sums are those of all slates at once."""
    weights, rewards = slates(0, 90)
    whole = PairedSums.of(weights, rewards)
    first, second, third = (
        PairedSums.of(weights[at], rewards[at]) for at in (slice(5), slice(5, 40), slice(40, None))
    )
    for merged in (first + (second + third), (third + first) + second, PairedSums() + whole):
        assert merged.lift == pytest.approx(whole.lift)
        assert merged.policy.snips_interval() == pytest.approx(whole.policy.snips_interval())
        assert merged.support.effective_rounds == pytest.approx(whole.support.effective_rounds)
        assert (merged.slots, merged.max_weight) == (whole.slots, whole.max_weight)


def test_the_values_are_those_of_the_definition() -> None:
    """Means over slates of means over slots."""
    weights, rewards = slates(1, 400)
    sums = PairedSums.of(weights, rewards)
    w = np.array([one.mean() for one in weights])
    t = np.array([(one * r).mean() for one, r in zip(weights, rewards, strict=True)])
    r = np.array([one.mean() for one in rewards])
    assert sums.policy.ips == pytest.approx(t.mean())
    assert sums.policy.snips == pytest.approx(t.sum() / w.sum())
    assert sums.logged.ips == pytest.approx(r.mean())
    assert sums.lift == pytest.approx(t.sum() / w.sum() - r.mean())


def test_slots_of_unequal_weight_cannot_hide_in_their_mean() -> None:
    """Slates whose mean weight is always 1 are worth less than as many that were logged by the policy itself."""
    sums = PairedSums.of([np.array([4.0, 0.0, 0.0, 0.0])] * 100, [np.ones(4)] * 100)
    assert sums.policy.support.effective_rounds == pytest.approx(100)
    assert sums.support.effective_rounds == pytest.approx(25)
    assert sums.support.max_weight == 4.0


def test_nothing_is_made_of_too_little() -> None:
    """Weights of 0 have no value."""
    with pytest.raises(NoSupport, match="nothing to average"):
        _ = PairedSums.of([np.zeros(2)] * 3, [np.ones(2)] * 3).lift

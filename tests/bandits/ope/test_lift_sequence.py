"""The interval of the lift holds at every look, and is worth looking at."""

import numpy as np
import pytest

from bandits.ope.lift_sequence import LiftSequence
from bandits.ope.paired import SlateMeans

LOOKS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 500)


def slates(rng: np.random.Generator, count: int, *, better: float = 0.3) -> SlateMeans:
    """Slates of two slots from five actions at random, of which the first earns more; the policy prefers it."""
    action = rng.integers(5, size=(count, 2))
    target = np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    rate = np.array([0.2 + better, 0.2, 0.2, 0.2, 0.2])
    rewards = (rng.random((count, 2)) < rate[action]).astype(float)
    return SlateMeans.of(list(5 * target[action]), list(rewards))


def lift(better: float) -> float:
    return 0.6 * better - 0.2 * better


def missed(interval: tuple[float, float], truth: float) -> bool:
    return not interval[0] <= truth <= interval[1]


@pytest.mark.parametrize("better", [0.0, 0.3, -0.2])
def test_an_operator_who_looks_all_the_time_is_misled_no_more_often_than_stated(better: float) -> None:
    """Over ten looks at a log it misses the truth in at most alpha of the logs; one for a single look does not."""
    rng, alpha, logs = np.random.default_rng(5), 0.2, 150
    ever = ever_normal = 0
    for _ in range(logs):
        log, sequence = slates(rng, LOOKS[-1], better=better), LiftSequence()
        gain = log.weighted - log.reward
        wrong = wrong_normal = False
        for start, end in zip((0, *LOOKS), LOOKS, strict=False):
            part = slice(start, end)
            sequence.add(log.weight[part], log.weighted[part], log.reward[part])
            wrong |= missed(sequence.interval(alpha=alpha), lift(better))
            half = 1.2816 * gain[:end].std() / np.sqrt(end)
            wrong_normal |= missed((gain[:end].mean() - half, gain[:end].mean() + half), lift(better))
        ever += wrong
        ever_normal += wrong_normal
    assert ever <= alpha * logs
    assert ever_normal > 2 * alpha * logs


def test_a_policy_that_earns_more_is_found_out() -> None:
    """A lift of 0.12 of rewards around 0.25 is beyond doubt after 3,000 slates, and known to 0.03 after 50,000."""
    rng = np.random.default_rng(6)
    for count, width in ((3_000, 0.2), (50_000, 0.06)):
        log, sequence = slates(rng, count), LiftSequence()
        sequence.add(log.weight, log.weighted, log.reward)
        low, high = sequence.interval()
        assert 0 < low < lift(0.3) < high
        assert high - low < width


def test_chunks_do_not_matter_and_the_reward_may_have_any_cap() -> None:
    """Fed at once or one by one, in rewards of 0 to 1 or of 0 to 4: the same interval, in their units."""
    log = slates(np.random.default_rng(7), 200)
    whole, parts, scaled = LiftSequence(), LiftSequence(), LiftSequence(reward_high=4.0)
    whole.add(log.weight, log.weighted, log.reward)
    scaled.add(log.weight, 4 * log.weighted, 4 * log.reward)
    for at in range(200):
        parts.add(log.weight[[at]], log.weighted[[at]], log.reward[[at]])
    assert parts.interval() == pytest.approx(whole.interval())
    assert np.array(scaled.interval()) / 4 == pytest.approx(whole.interval())


def test_before_the_first_round_anything_is_possible() -> None:
    """The interval is as wide as rewards allow."""
    assert LiftSequence(reward_high=3.0).interval() == (-3.0, 3.0)


@pytest.mark.parametrize(
    ("weighted", "reward"), [([0.0], [1.5]), ([3.0], [1.0]), ([0.0], [-0.1])], ids=["reward", "weighted", "below"]
)
def test_rewards_out_of_their_range_are_refused(weighted: list[float], reward: list[float]) -> None:
    """An interval from a wrong bound on rewards would promise what it cannot hold."""
    with pytest.raises(ValueError, match="reward: expected 0 to 1"):
        LiftSequence().add([2.0], weighted, reward)
    with pytest.raises(ValueError, match="reward_high: expected a number above 0"):
        LiftSequence(reward_high=0.0)

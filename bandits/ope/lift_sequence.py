"""An interval for how much more a policy earns than the one that logged it, valid at every moment of a growing log.

Promise: as `bandits.ope.confidence_sequence`, for E[w r] - E[r]: over the whole life of the sequence the chance
that the interval *ever* misses the difference is at most alpha, for any weights with mean 1 and rewards in the
stated range. Both values are of the same rounds, so a policy that is nearly the logging one has a narrow interval.
"""

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.confidence_sequence import ROUNDING
from bandits.ope.intervals import Interval
from bandits.ope.lower_bounds import RobustBound


class LiftSequence:
    """Off-policy confidence sequence of E[w r - r].

    With the reward scaled to u in [0, 1] and the difference to v, (1 + w u - u) / 2 is not negative and has mean
    (1 + v) / 2, which gives the lower end; (w - w u + u) / 2 has mean (1 - v) / 2 as the weights have mean 1, which
    gives the upper end. Where rewards are rare the noise of the weights enters the lower end through the few
    rounds that have one, and the upper end through all of them: without a bound on the weights nobody can know that
    a heavy one does not come with a reward.

    Args:
        reward_high: largest possible reward, known beforehand, not taken from the data; the smallest is 0.

    Examples:
        >>> sequence = LiftSequence()
        >>> sequence.add([2.0, 0.0] * 2000, [2.0, 0.0] * 2000, [1.0, 0.0] * 2000)
        >>> low, high = sequence.interval(alpha=0.05)
        >>> 0.4 < low < 0.5 < high < 0.6
        True
    """

    def __init__(self, *, reward_high: float = 1.0) -> None:
        if not 0 < reward_high < float("inf"):
            raise ValueError(f"reward_high: expected a number above 0, got {reward_high}")
        self._reward_high = reward_high
        self._below, self._above = RobustBound(), RobustBound()

    def add(self, weight: npt.ArrayLike, weighted: npt.ArrayLike, reward: npt.ArrayLike) -> None:
        """Take rounds in the order of the log.

        Args:
            weight: of shape (n,), >= 0; of a slate the mean over its slots, and so on.
            weighted: of shape (n,), weight times reward.
            reward: of shape (n,), 0 <= r <= reward_high, up to rounding.
        """
        r = columns.finite("reward", reward)
        w = columns.weights("weight", weight, shape=r.shape)
        wr = columns.weights("weighted", weighted, shape=r.shape)
        high = self._reward_high
        if r.min() < 0 or r.max() > high * ROUNDING or (wr > w * high * ROUNDING).any():
            raise ValueError(f"reward: expected 0 to {high} (reward_high), got {r.min()} to {r.max()}")
        gain = (wr - r) / high
        self._below.add(np.maximum(1.0 + gain, 0.0) / 2)
        self._above.add(np.maximum(w - gain, 0.0) / 2)

    def interval(self, *, alpha: float = 0.05) -> Interval:
        """The interval now; from -reward_high to reward_high before the first round."""
        half = columns.fraction("alpha", alpha) / 2
        low, high = 2.0 * self._below.bound(half) - 1.0, 1.0 - 2.0 * self._above.bound(half)
        return Interval(self._reward_high * low, self._reward_high * high)

"""An interval for a policy's value that stays valid at every moment of a growing log.

Promise: over the whole life of the sequence the chance that the interval *ever* misses the value is at most
alpha, for any weights with mean 1 and rewards in the stated range: no normality, no bound on weights, no fixed
sample size. It may therefore be looked at after every batch, and a rollout may be stopped by it
(Karampatziakis, Mineiro, Ramdas 2021).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.intervals import Interval
from bandits.ope.lower_bounds import BernsteinBound, LowerBound, RobustBound

Method = Literal["robust", "bernstein"]
ROUNDING = 1 + 1e-9  # 0.2 / 0.0125 is a little more than 16


class ConfidenceSequence:
    """Off-policy confidence sequence of E[w r].

    With the reward scaled to u in [0, 1], w u has the value v as its mean and gives the lower end; w (1 - u)
    has mean 1 - v and gives the upper end. Where the weights are known to stay below W, 1 - w u / W, of mean 1
    - v / W, gives another upper end, far tighter at low click rates because the noise of w then enters only
    where there is a reward; the smaller one counts. The lower end spends half of alpha, the upper ends share
    the other half.

    Args:
        reward_low: smallest possible reward, known beforehand, not taken from the data.
        reward_high: largest possible reward.
        max_weight: W >= 1, a bound on the weights that holds whatever the log says: the largest probability of the
            evaluation policy over the smallest of the logging policy. None where there is none.
        method: "robust" for importance weights of any size; "bernstein" is a closed form, cheaper and never much
            tighter, and useless with heavy weights.

    Examples:
        >>> sequence = ConfidenceSequence()
        >>> sequence.add([1.0] * 1000, [1, 0] * 500)
        >>> low, high = sequence.interval(alpha=0.05)
        >>> round(low, 2), round(high, 2)
        (0.45, 0.55)
    """

    def __init__(
        self,
        *,
        reward_low: float = 0.0,
        reward_high: float = 1.0,
        max_weight: float | None = None,
        method: Method = "robust",
    ) -> None:
        if not reward_low < reward_high:
            raise ValueError(f"reward_low, reward_high: expected low < high, got {reward_low}, {reward_high}")
        if method not in ("robust", "bernstein"):
            raise ValueError(f"method: expected 'robust' or 'bernstein', got {method!r}")
        if max_weight is not None and not 1 <= max_weight < float("inf"):
            raise ValueError(f"max_weight: expected a number >= 1 or None, got {max_weight}")
        self._max_weight = None if max_weight is None else float(max_weight)
        self._reward_low = reward_low
        self._reward_high = reward_high
        make = RobustBound if method == "robust" else BernsteinBound
        self._below: LowerBound = make()
        self._above: LowerBound = make()
        self._scaled_above: LowerBound | None = None if max_weight is None else make()

    def add(self, weight: npt.ArrayLike, reward: npt.ArrayLike) -> None:
        """Take rounds in the order of the log; both of shape (n,). Refuses rewards out of the stated range."""
        r = columns.finite("reward", reward)
        w = columns.weights("weight", weight, shape=r.shape)
        if r.min() < self._reward_low or r.max() > self._reward_high:
            raise ValueError(
                f"reward: expected {self._reward_low} to {self._reward_high} (reward_low, reward_high), got "
                f"{r.min()} to {r.max()}"
            )
        if self._max_weight is not None and w.max() > self._max_weight * ROUNDING:
            raise ValueError(f"weight: expected at most {self._max_weight} (max_weight), got {w.max()}")
        scaled = (r - self._reward_low) / (self._reward_high - self._reward_low)
        self._below.add(w * scaled)
        self._above.add(w * (1.0 - scaled))
        if self._scaled_above is not None and self._max_weight is not None:
            self._scaled_above.add(1.0 - np.minimum(w * scaled / self._max_weight, 1.0))

    def interval(self, *, alpha: float = 0.05) -> Interval:
        """The interval now; the whole range before the first round."""
        half = columns.fraction("alpha", alpha) / 2
        span = self._reward_high - self._reward_low
        low = self._below.bound(half)
        if self._scaled_above is None or self._max_weight is None:
            high = 1.0 - self._above.bound(half)
        else:
            high = min(
                1.0 - self._above.bound(half / 2),
                self._max_weight * (1.0 - self._scaled_above.bound(half / 2)),
            )
        return Interval(self._reward_low + span * low, self._reward_low + span * high)


def confidence_interval(
    weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    alpha: float = 0.05,
    reward_low: float = 0.0,
    reward_high: float = 1.0,
    max_weight: float | None = None,
    method: Method = "robust",
) -> Interval:
    """The interval of a `ConfidenceSequence` after all rounds of a log; arguments as there."""
    sequence = ConfidenceSequence(
        reward_low=reward_low, reward_high=reward_high, max_weight=max_weight, method=method
    )
    sequence.add(weight, reward)
    return sequence.interval(alpha=alpha)

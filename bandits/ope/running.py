"""Mergeable sums behind IPS, SNIPS and their support, for logs that are read in chunks or never end.

Promise: sums over parts, merged in any grouping, give the estimates of the whole up to rounding; the state is
eight numbers whatever the length of the log.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bandits.ope import columns
from bandits.ope.intervals import Interval
from bandits.ope.support import NoSupport, Support


@dataclass(frozen=True)
class RunningSums:
    """Sums over logged rounds of weight w and reward r; `+` merges two parts.

    Attributes:
        rounds: n.
        w: sum of w.
        ww: sum of w^2.
        wr: sum of w r.
        wwr: sum of w^2 r.
        wwrr: sum of (w r)^2.
        max_weight: largest w.

    Examples:
        >>> part = RunningSums.of([1.0, 2.0], [1, 0])
        >>> whole = part + RunningSums.of([0.0], [1])
        >>> whole.rounds, whole.snips
        (3, 0.3333333333333333)
    """

    rounds: int = 0
    w: float = 0.0
    ww: float = 0.0
    wr: float = 0.0
    wwr: float = 0.0
    wwrr: float = 0.0
    max_weight: float = 0.0

    @classmethod
    def of(cls, weight: npt.ArrayLike, reward: npt.ArrayLike) -> "RunningSums":
        """Sums of a chunk; both arguments of shape (n,)."""
        r = columns.finite("reward", reward)
        w = columns.weights("weight", weight, shape=r.shape)
        wr = w * r
        return cls(
            rounds=len(r),
            w=float(w.sum()),
            ww=float((w * w).sum()),
            wr=float(wr.sum()),
            wwr=float((w * wr).sum()),
            wwrr=float((wr * wr).sum()),
            max_weight=float(w.max()),
        )

    def __add__(self, other: "RunningSums") -> "RunningSums":
        return RunningSums(
            rounds=self.rounds + other.rounds,
            w=self.w + other.w,
            ww=self.ww + other.ww,
            wr=self.wr + other.wr,
            wwr=self.wwr + other.wwr,
            wwrr=self.wwrr + other.wwrr,
            max_weight=max(self.max_weight, other.max_weight),
        )

    @property
    def ips(self) -> float:
        """mean(w r); NoSupport without rounds."""
        self._require(self.rounds)
        return self.wr / self.rounds

    @property
    def snips(self) -> float:
        """sum(w r) / sum(w); NoSupport where all weights are 0."""
        self._require(self.w)
        return self.wr / self.w

    @property
    def support(self) -> Support:
        """Effective sample size, mean and largest weight."""
        return Support.from_sums(
            rounds=self.rounds, weight=self.w, weight_squared=self.ww, max_weight=self.max_weight
        )

    def ips_interval(self, *, alpha: float = 0.05) -> Interval:
        """Normal interval of `ips`."""
        return self._interval(self.ips, self.wwrr / self.rounds - self.ips**2, alpha)

    def snips_interval(self, *, alpha: float = 0.05) -> Interval:
        """Normal interval of `snips`, the randomness of its denominator included (delta method)."""
        value = self.snips
        squares = self.wwrr - 2 * value * self.wwr + value * value * self.ww
        return self._interval(value, squares * self.rounds / self.w**2, alpha)

    def _interval(self, value: float, variance: float, alpha: float) -> Interval:
        if self.rounds < 2:
            raise NoSupport(f"rounds: expected at least 2 for a standard error, got {self.rounds}")
        error = np.sqrt(max(variance, 0.0) / (self.rounds - 1))
        half = float(-ndtri(columns.fraction("alpha", alpha) / 2) * error)
        return Interval(value - half, value + half)

    def _require(self, total: float) -> None:
        if not total > 0:
            raise NoSupport(f"weight: nothing to average, sum of weights {self.w} over {self.rounds} rounds")

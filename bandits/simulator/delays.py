"""Delays: how long after the impression its click is reported.

Invariants: a delay is a pure function of a uniform draw u within (0, 1), never negative, never above the cap, and
grows with u. The unit is the caller's: rounds, or milliseconds.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Float64 = npt.NDArray[np.float64]


class Delay(Protocol):
    """How late clicks are."""

    def draw(self, uniforms: Float64) -> Float64:
        """Delay of each click, float64 of the shape of `uniforms`."""


@dataclass(frozen=True)
class Fixed:
    """Every click is equally late; 0 is no delay at all."""

    delay: float = 0.0

    def draw(self, uniforms: Float64) -> Float64:
        """Delay of each click, float64 of the shape of `uniforms`."""
        return np.full(np.shape(uniforms), self.delay)


@dataclass(frozen=True, kw_only=True)
class Lognormal:
    """Median * exp(deviation * N(0, 1)), cut at the cap: the body of reaction times.

    Examples:
        >>> Lognormal(median=200.0, deviation=1.5, cap=60_000.0).draw(np.array([0.5])).tolist()
        [200.0]
    """

    median: float
    deviation: float
    cap: float

    def draw(self, uniforms: Float64) -> Float64:
        """Delay of each click, float64 of the shape of `uniforms`."""
        with np.errstate(over="ignore"):  # infinity is cut by the cap
            delay: Float64 = self.median * np.exp(self.deviation * ndtri(uniforms))
        return np.minimum(delay, self.cap)


@dataclass(frozen=True, kw_only=True)
class Pareto:
    """Smallest * (1 - u)^(-1 / tail), cut at the cap: a tail without a mean where tail <= 1.

    Polynomial tails are what delayed bandits are analysed under (Vernade, Cappé and Perchet, UAI 2017).
    """

    smallest: float
    tail: float
    cap: float

    def draw(self, uniforms: Float64) -> Float64:
        """Delay of each click, float64 of the shape of `uniforms`."""
        with np.errstate(over="ignore"):
            delay: Float64 = self.smallest * (1.0 - uniforms) ** (-1.0 / self.tail)
        return np.minimum(delay, self.cap)

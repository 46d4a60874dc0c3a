"""A policy beside the one that logged it: sums of slates behind both, their difference, and their support.

Promise: mergeable and bounded as `bandits.ope.running`; the difference has its own interval, which is narrower than
the two intervals suggest, because both values are of the same slates.

The unit is a slate. Its weight is the mean of its slots' weights, its terms are means over slots too, so that
values are rewards per shown item (independent estimator of slates, Li et al. 2018: right where the reward of a slot
depends on its own item and position alone).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bandits.ope import columns
from bandits.ope.intervals import Interval
from bandits.ope.running import RunningSums
from bandits.ope.support import NoSupport, Support

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedSums:
    """Sums over slates of weight w, weighted reward t and logged reward r; `+` merges two parts.

    Attributes:
        policy: sums of w and t.
        logged: sums of the logged policy, whose weights are 1.
        tr: sum of t r.
        wr: sum of w r.
        slots: number of slots.
        slot_w, slot_ww: sums over slots of their weights and of the squares.
        max_weight: largest weight of a slot.

    Examples:
        >>> part = PairedSums.of([np.array([2.0, 0.0])], [np.array([1.0, 1.0])])
        >>> part.policy.ips, part.logged.ips
        (1.0, 1.0)
    """

    policy: RunningSums = field(default_factory=RunningSums)
    logged: RunningSums = field(default_factory=RunningSums)
    tr: float = 0.0
    wr: float = 0.0
    slots: int = 0
    slot_w: float = 0.0
    slot_ww: float = 0.0
    max_weight: float = 0.0

    @classmethod
    def of(cls, weights: "list[Float64]", rewards: "list[Float64]") -> "PairedSums":
        """Sums of some slates, 1 or more: the weights and rewards of the slots of each, 1 slot or more."""
        sizes = np.array([len(slate) for slate in rewards])
        r = columns.finite("reward", np.concatenate(rewards))
        w = columns.weights("weight", np.concatenate(weights), shape=r.shape)
        first = np.cumsum(sizes) - sizes
        w_mean, t_mean, r_mean = (np.add.reduceat(part, first) / sizes for part in (w, w * r, r))
        each = np.divide(t_mean, w_mean, out=np.zeros(len(sizes)), where=w_mean > 0)
        return cls(
            policy=RunningSums.of(w_mean, each),
            logged=RunningSums.of(np.ones(len(sizes)), r_mean),
            tr=float((t_mean * r_mean).sum()),
            wr=float((w_mean * r_mean).sum()),
            slots=len(w),
            slot_w=float(w.sum()),
            slot_ww=float((w * w).sum()),
            max_weight=float(w.max()),
        )

    def __add__(self, other: "PairedSums") -> "PairedSums":
        return PairedSums(
            policy=self.policy + other.policy,
            logged=self.logged + other.logged,
            tr=self.tr + other.tr,
            wr=self.wr + other.wr,
            slots=self.slots + other.slots,
            slot_w=self.slot_w + other.slot_w,
            slot_ww=self.slot_ww + other.slot_ww,
            max_weight=max(self.max_weight, other.max_weight),
        )

    @property
    def support(self) -> Support:
        """Of slates; effective ones by the spread of weights over slots, which the slates' means would hide."""
        support = self.policy.support
        if not self.slot_ww:
            return support
        share = self.slot_w**2 / (self.slots * self.slot_ww)
        return replace(support, effective_rounds=share * self.policy.rounds, max_weight=self.max_weight)

    @property
    def lift(self) -> float:
        """SNIPS of the policy less the logged mean; NoSupport where all weights are 0."""
        return self.policy.snips - self.logged.ips

    def lift_interval(self, *, alpha: float = 0.05) -> Interval:
        """Normal interval of `lift` (delta method over both means, which share their slates)."""
        p, n, value, mean = self.policy, self.policy.rounds, self.policy.snips, self.logged.ips
        if n < 2:
            raise NoSupport(f"rounds: expected at least 2 for a standard error, got {n}")
        w_mean = p.w / n
        own = p.wwrr - 2 * value * p.wwr + value * value * p.ww
        logged = self.logged.wwrr - n * mean * mean
        squares = own / w_mean**2 - 2 * (self.tr - value * self.wr) / w_mean + logged
        error = np.sqrt(max(squares, 0.0) / n / (n - 1))
        half = float(-ndtri(columns.fraction("alpha", alpha) / 2) * error)
        return Interval(self.lift - half, self.lift + half)

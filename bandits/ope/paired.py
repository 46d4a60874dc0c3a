"""A policy beside the one that logged it: sums of slates behind both, their difference, and their support.

Promise: mergeable and bounded as `bandits.ope.running`.

The unit is a slate. Its weight is the mean of its slots' weights, its terms are means over slots too, so that
values are rewards per shown item (independent estimator of slates, Li et al. 2018: right where the reward of a slot
depends on its own item and position alone).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.running import RunningSums
from bandits.ope.support import Support

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlateMeans:
    """Means over the slots of each slate, float64 of shape (n_slates,) each.

    Attributes:
        weight: of their weights.
        weighted: of weight times reward.
        reward: of their rewards.
    """

    weight: Float64
    weighted: Float64
    reward: Float64

    @classmethod
    def of(cls, weights: "list[Float64]", rewards: "list[Float64]") -> "SlateMeans":
        """Of some slates, 1 or more: the weights and rewards of the slots of each, 1 slot or more."""
        sizes = np.array([len(slate) for slate in rewards])
        r = columns.finite("reward", np.concatenate(rewards))
        w = columns.weights("weight", np.concatenate(weights), shape=r.shape)
        first = np.cumsum(sizes) - sizes
        return cls(*(np.add.reduceat(part, first) / sizes for part in (w, w * r, r)))

    @property
    def each(self) -> Float64:
        """The reward that a slate counts with under its weight: 0 where that is 0."""
        return np.divide(self.weighted, self.weight, out=np.zeros(len(self.weight)), where=self.weight > 0)


@dataclass(frozen=True)
class PairedSums:
    """Sums over slates of weight w and logged reward r; `+` merges two parts.

    Attributes:
        policy: sums of w and t.
        logged: sums of the logged policy, whose weights are 1.
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
    slots: int = 0
    slot_w: float = 0.0
    slot_ww: float = 0.0
    max_weight: float = 0.0

    @classmethod
    def of(cls, weights: "list[Float64]", rewards: "list[Float64]") -> "PairedSums":
        """Sums of some slates, 1 or more: the weights and rewards of the slots of each, 1 slot or more."""
        means, w = SlateMeans.of(weights, rewards), np.concatenate(weights)
        return cls(
            policy=RunningSums.of(means.weight, means.each),
            logged=RunningSums.of(np.ones(len(means.reward)), means.reward),
            slots=len(w),
            slot_w=float(w.sum()),
            slot_ww=float((w * w).sum()),
            max_weight=float(w.max()),
        )

    def __add__(self, other: "PairedSums") -> "PairedSums":
        return PairedSums(
            policy=self.policy + other.policy,
            logged=self.logged + other.logged,
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

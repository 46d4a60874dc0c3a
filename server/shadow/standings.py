"""How the shadow policies stand: sums of closed slates, and what may be said from them.

Invariants: an estimate without support is not told, neither in metrics nor to people; its reasons are. Intervals
hold at every moment at once, as an operator looks all the time.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandits.ope.confidence_sequence import ConfidenceSequence
from bandits.ope.intervals import Interval
from bandits.ope.lift_sequence import LiftSequence
from bandits.ope.paired import Float64, PairedSums, SlateMeans
from bandits.ope.support import reasons_to_refuse


@dataclass(frozen=True)
class Standing:
    """A shadow policy by now; estimates are rewards per shown item.

    Attributes:
        name: of the policy.
        slates: closed so far.
        effective_slates, mean_weight, max_weight: its support; 0 before the first slate.
        logged: what the same slates earned as they were served.
        refused: why there is no estimate; empty where there is one.
        ips, snips, lift: estimates, the last one of the difference to `logged`; None where refused.
        value_interval: of what `ips` and `snips` estimate, at 95 % over the whole life of the log.
        lift_interval: likewise of what `lift` estimates.
    """

    name: str
    slates: int = 0
    effective_slates: float = 0.0
    mean_weight: float = 0.0
    max_weight: float = 0.0
    logged: float = 0.0
    refused: tuple[str, ...] = ()
    ips: float | None = None
    snips: float | None = None
    lift: float | None = None
    value_interval: tuple[float, float] | None = None
    lift_interval: tuple[float, float] | None = None


class _Followed:
    """A policy's sums, and what bounds its value and its lift."""

    def __init__(self, name: str, reward_cap: float) -> None:
        self.name = name
        self.sums = PairedSums()
        self._cap = reward_cap
        self._value = ConfidenceSequence(reward_high=reward_cap)
        self._lift = LiftSequence(reward_high=reward_cap)

    def add(self, weights: list[Float64], rewards: list[Float64]) -> None:
        """Take slates in the order in which they were closed."""
        means = SlateMeans.of(weights, rewards)
        self.sums += PairedSums.of(weights, rewards)
        self._value.add(means.weight, np.minimum(means.each, self._cap))
        self._lift.add(means.weight, means.weighted, means.reward)

    def standing(self) -> Standing:
        """How it stands."""
        policy = self.sums.policy
        if not policy.rounds:
            return Standing(self.name, refused=("no slate has been closed yet",))
        support = self.sums.support
        standing = Standing(
            self.name,
            slates=policy.rounds,
            effective_slates=support.effective_rounds,
            mean_weight=support.mean_weight,
            max_weight=support.max_weight,
            logged=self.sums.logged.ips,
            refused=reasons_to_refuse(support),
        )
        if standing.refused:
            return standing
        return replace(
            standing,
            ips=policy.ips,
            snips=policy.snips,
            lift=self.sums.lift,
            value_interval=_ends(self._value.interval()),
            lift_interval=_ends(self._lift.interval()),
        )


class Standings:
    """Sums of each shadow policy.

    Args:
        names: of the policies.
        reward_cap: the most that a shown item can earn.
    """

    def __init__(self, names: Sequence[str], *, reward_cap: float) -> None:
        self._followed = [_Followed(name, reward_cap) for name in names]
        self._lock = threading.Lock()

    def add(self, weights: list[Float64], rewards: list[Float64]) -> None:
        """Take closed slates.

        Args:
            weights: of each slate float64 of shape (policies, S).
            rewards: of each slate float64 of shape (S,).
        """
        with self._lock:
            for at, one in enumerate(self._followed):
                one.add([w[at] for w in weights], rewards)

    def now(self) -> list[Standing]:
        """How each policy stands."""
        with self._lock:
            return [one.standing() for one in self._followed]


def _ends(interval: Interval) -> tuple[float, float]:
    """As plain numbers, which any serialiser takes."""
    return interval.low, interval.high

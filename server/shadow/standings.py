"""How the shadow policies stand: sums of closed slates, and what may be said from them.

Invariant: an estimate without support is not told, neither in metrics nor to people; its reasons are.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bandits.ope.intervals import Interval
from bandits.ope.paired import Float64, PairedSums
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
        ips_interval, snips_interval, lift_interval: at 95 %.
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
    ips_interval: tuple[float, float] | None = None
    snips_interval: tuple[float, float] | None = None
    lift_interval: tuple[float, float] | None = None


class Standings:
    """Sums of each shadow policy.

    Args:
        names: of the policies.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._sums = [PairedSums() for _ in names]
        self._lock = threading.Lock()

    def add(self, weights: list[Float64], rewards: list[Float64]) -> None:
        """Take closed slates.

        Args:
            weights: of each slate float64 of shape (policies, S).
            rewards: of each slate float64 of shape (S,).
        """
        added = [PairedSums.of([w[at] for w in weights], rewards) for at in range(len(self._names))]
        with self._lock:
            self._sums = [before + more for before, more in zip(self._sums, added, strict=True)]

    def now(self) -> list[Standing]:
        """How each policy stands."""
        with self._lock:
            sums = list(self._sums)
        return [_standing(name, one) for name, one in zip(self._names, sums, strict=True)]


def _standing(name: str, sums: PairedSums) -> Standing:
    policy = sums.policy
    if not policy.rounds:
        return Standing(name, refused=("no slate has been closed yet",))
    support = sums.support
    standing = Standing(
        name,
        slates=policy.rounds,
        effective_slates=support.effective_rounds,
        mean_weight=support.mean_weight,
        max_weight=support.max_weight,
        logged=sums.logged.ips,
        refused=reasons_to_refuse(support),
    )
    if standing.refused:
        return standing
    return replace(
        standing,
        ips=policy.ips,
        snips=policy.snips,
        lift=sums.lift,
        ips_interval=_ends(policy.ips_interval()),
        snips_interval=_ends(policy.snips_interval()),
        lift_interval=_ends(sums.lift_interval()),
    )


def _ends(interval: Interval) -> tuple[float, float]:
    """As plain numbers, which any serialiser takes."""
    return interval.low, interval.high

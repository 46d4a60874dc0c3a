"""Shadowed slates from when they are shown until their rewards are in, and how the shadow policies stand by then.

Invariants: everything that waits is bounded, and what is left out is counted by what became of it; a slate counts
once its window has passed, or once it had to make room, and only if it had been scored by then.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from server.shadow.pending import PendingSlate, PendingSlates
from server.shadow.rewards import slot_rewards
from server.shadow.standings import Standing, Standings

OUTCOMES = ("closed", "evicted", "repeated", "dropped", "failed", "unnamed")
REST = 3.0  # times what a thread has worked: it takes a quarter of a processor at most, whatever the traffic
_LOOK_S = 0.5


class Awaiting(Protocol):
    """Where shadowed slates wait for their rewards."""

    def shown(self, slate: PendingSlate) -> bool:
        """A slate is about to be shown; False where it will not be waited for, which has been counted."""

    def weighed(self, slate: PendingSlate) -> None:
        """It has been scored."""

    def given_up(self, slate: PendingSlate) -> None:
        """It will not be."""

    def outcomes(self) -> dict[str, int]:
        """Slates by what became of them, as far as they were counted here."""


class AwaitedRewards:
    """Slates that wait within this process.

    Args:
        names: of the shadow policies.
        rule: what clicks are worth.
        max_pending: slates that may wait for rewards.
        window_ms: how long they wait.
        clock_ms: Unix milliseconds.
        log: where it is told that slates could not be closed.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rule: JoinRule,
        max_pending: int,
        window_ms: int,
        clock_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._rule = rule
        self._clock_ms = clock_ms
        self._log = log
        self._pending = PendingSlates(most=max_pending, window_ms=window_ms)
        self._standings = Standings(names, reward_cap=rule.reward_cap)
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._records_passed_over = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-shadow-rewards", daemon=True)

    def shown(self, slate: PendingSlate) -> bool:
        """See `Awaiting`."""
        if self._pending.add(slate):
            return True
        self._count("repeated", 2)
        return False

    def weighed(self, slate: PendingSlate) -> None:
        """See `Awaiting`; where the slate came by another way, the one that waits is told."""
        waiting = self._pending.like(slate)
        if waiting is not None:
            waiting.item_ids, waiting.weights = slate.item_ids, slate.weights

    def given_up(self, slate: PendingSlate) -> None:
        """See `Awaiting`."""
        waiting = self._pending.like(slate)
        if waiting is not None:
            self._pending.forget(waiting)

    def clicked(self, clicks: Iterable[events_pb2.Click]) -> None:
        """Take note of accepted clicks; most are of other requests."""
        self._pending.clicked(clicks, self._clock_ms())

    def passed_over(self, records: int) -> None:
        """Take note of records of clicks that could not be read."""
        with self._lock:
            self._records_passed_over += records

    def standings(self) -> list[Standing]:
        """How each policy stands."""
        return self._standings.now()

    def outcomes(self) -> dict[str, int]:
        """See `Awaiting`."""
        with self._lock:
            return dict(self._outcomes)

    @property
    def records_passed_over(self) -> int:
        """Records of clicks that could not be read: their rewards are missing."""
        return self._records_passed_over

    @property
    def pending(self) -> int:
        """Slates that wait for rewards."""
        return len(self._pending)

    # --- the thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to close slates."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits is given up."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def close_due(self) -> None:
        """Close what is due; what the thread does again and again."""
        evicted, closed = self._pending.evicted(), self._pending.closed(self._clock_ms())
        whole = {
            outcome: [slate for slate in slates if slate.weights is not None]
            for outcome, slates in (("evicted", evicted), ("closed", closed))
        }
        for outcome, slates in whole.items():
            self._count(outcome, len(slates))
        slates = [*whole["evicted"], *whole["closed"]]
        self._count("dropped", len(evicted) + len(closed) - len(slates))
        if slates:
            rewards = [slot_rewards(one.item_ids, one.shown_ms, one.clicks, self._rule) for one in slates]
            self._standings.add([one.weights for one in slates if one.weights is not None], rewards)

    def _run(self) -> None:
        rest_s = _LOOK_S
        while not self._stopped.wait(rest_s):
            began_s = time.thread_time()
            try:
                self.close_due()
            except Exception:
                self._log.exception("shadow policies: slates were not closed")
            rest_s = max(_LOOK_S, REST * (time.thread_time() - began_s))

    def _count(self, outcome: str, slates: int) -> None:
        with self._lock:
            self._outcomes[outcome] += slates

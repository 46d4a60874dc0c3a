"""How much of their exploration budgets surfaces have spent in the windows that run.

Invariants: a window begins with the first spending after the last one has ended; what was spent in an earlier one
counts no longer.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How many items may be explored.

    Attributes:
        items: by surface, items of slates in each window; `ANY_SURFACE` for each of those that are not named.
        window_ms: length of a window, which begins with the first slate after the last.
    """

    items: Mapping[str, int]
    window_ms: int


class Spending(Protocol):
    """Where spending is counted. Safe to use from several threads."""

    def spent(self, surface: str) -> int:
        """Items explored in the window that runs; 0 where none does."""

    def spend(self, surface: str, items: int) -> None:
        """Count so many; begins a window where none runs."""


class OwnSpending:
    """Spending of one process.

    Args:
        window_ms: length of a window.
        clock_ms: Unix milliseconds.
    """

    def __init__(self, *, window_ms: int, clock_ms: Callable[[], int]) -> None:
        self._window_ms = window_ms
        self._clock_ms = clock_ms
        self._windows: dict[str, tuple[int, int]] = {}  # until when, and what was spent
        self._lock = threading.Lock()

    def spent(self, surface: str) -> int:
        """See `Spending`."""
        until_ms, spent = self._windows.get(surface, (0, 0))
        return spent if self._clock_ms() < until_ms else 0

    def spend(self, surface: str, items: int) -> None:
        """See `Spending`."""
        now_ms = self._clock_ms()
        with self._lock:
            until_ms, spent = self._windows.get(surface, (0, 0))
            if now_ms >= until_ms:
                until_ms, spent = now_ms + self._window_ms, 0
            self._windows[surface] = until_ms, spent + items

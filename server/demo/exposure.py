"""Which items users get to see: how many were shown K times, and how soon new ones were.

Invariants: every shown slot counts once; a number of slates counts all users' slates since the start, so that what
is reported does not depend on how fast they come.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

LEVELS = (1, 5, 20)  # impressions
_POINTS = 100  # of the curve
_NEVER = -1


class Exposure:
    """Counts impressions of items. Safe to use from several threads.

    Args:
        n_items: items there are.
        new: numbers of those that are published later.
        slates: about how many there will be, for the points of the curve.
    """

    def __init__(self, n_items: int, new: npt.NDArray[np.integer], *, slates: int) -> None:
        self._lock = threading.Lock()
        self._new = new
        self._shown = np.zeros(n_items, np.int64)
        self._reached = np.full((len(LEVELS), n_items), _NEVER, np.int64)
        self._published = np.zeros(n_items, np.int64)
        self._published[new] = _NEVER
        self._every = max(1, slates // _POINTS)
        self._curve: list[dict[str, int]] = []
        self.slates = 0

    def publish(self, items: npt.NDArray[np.integer]) -> None:
        """From now on these items can be shown."""
        with self._lock:
            self._published[items] = self.slates

    def published(self, items: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Which of the items can be shown, bool of the shape of `items`."""
        with self._lock:
            there: npt.NDArray[np.bool_] = self._published[items] != _NEVER
        return there

    def show(self, shown: Int64) -> None:
        """Count slates, int64 of shape (n, S)."""
        with self._lock:
            self.slates += len(shown)
            np.add.at(self._shown, shown.ravel(), 1)
            items = np.unique(shown)
            for level, reached in zip(LEVELS, self._reached, strict=True):
                crossed = items[(self._shown[items] >= level) & (reached[items] == _NEVER)]
                reached[crossed] = self.slates
            if not self._curve or self.slates >= self._curve[-1]["slates"] + self._every:
                self._curve.append(self._point())

    def summary(self) -> dict[str, Any]:
        """Items of the whole corpus and new ones shown at least K times, and slates from publication until then."""
        with self._lock:
            there = self._new[self._published[self._new] != _NEVER]
            waits = self._reached[:, there] - self._published[there]
            seen = self._reached[:, there] != _NEVER
            return {
                "items": int((self._published != _NEVER).sum()),
                "shown_at_least": {str(level): int((self._shown >= level).sum()) for level in LEVELS},
                "new_items": len(there),
                "new_shown_at_least": {str(level): int(row.sum()) for level, row in zip(LEVELS, seen, strict=True)},
                "new_slates_until": {
                    str(level): _spread(wait[row]) for level, wait, row in zip(LEVELS, waits, seen, strict=True)
                },
                "curve": [*self._curve, self._point()],
            }

    def _point(self) -> dict[str, int]:
        point = {"slates": self.slates, "new": int((self._published[self._new] != _NEVER).sum())}
        for level in LEVELS:
            point[f"shown_{level}"] = int((self._shown >= level).sum())
            point[f"new_shown_{level}"] = int((self._shown[self._new] >= level).sum())
        return point


def _spread(waits: Int64) -> dict[str, float] | None:
    if not len(waits):
        return None
    return {"p50": float(np.percentile(waits, 50)), "p90": float(np.percentile(waits, 90))}

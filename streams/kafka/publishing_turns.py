"""Turns of publishing: when rows go out next, and of which partitions.

Invariants: a partition that has waited longer comes first; while ledger records come in, publishing takes at most
one part in `_SHARE` of the time.

A row is some ten times as large as the fact that changed it, and whoever follows reads it, too, so publishing is
what a loaded machine spends most on. All partitions at once would be a long publication and a long rest: what
changed right after its beginning would wait for both. So a turn is as many partitions as take `_TURN_S`.
"""

from collections.abc import Sequence

_SHARE = 2
_TURN_S = 0.2  # much shorter ones wait for disk and broker rather than for rows
_LONGEST_REST_S = 1.0


class PublishingTurns:
    """Says whose turn it is; clocks are the caller's."""

    def __init__(self) -> None:
        self._published_at_s: dict[int, float] = {}
        self._began_s = -_LONGEST_REST_S
        self._took_s = 0.0
        self._partition_took_s = 0.0

    def due_at_s(self, ahead: Sequence[int], *, pause_s: float, since_s: float, is_busy: bool) -> float:
        """When the next turn is.

        Args:
            ahead: partitions that have something to publish, at least one.
            pause_s: shortest time between two publications of a partition.
            since_s: a pause does not begin earlier.
            is_busy: something has come in since the last turn began.
        """
        due_s = min(max(self._published_at_s.get(number, -pause_s), since_s) for number in ahead) + pause_s
        return max(due_s, self._began_s + min(_SHARE * self._took_s, _LONGEST_REST_S)) if is_busy else due_s

    def next(self, ahead: Sequence[int]) -> list[int]:
        """The partitions whose turn it is, those that waited longest."""
        count = int(_TURN_S / self._partition_took_s) if self._partition_took_s else len(ahead)
        return sorted(ahead, key=lambda number: self._published_at_s.get(number, 0.0))[: max(count, 1)]

    def took(self, numbers: Sequence[int], *, began_s: float, ended_s: float) -> None:
        """Note a turn that is over."""
        self._published_at_s.update(dict.fromkeys(numbers, began_s))
        self._began_s, self._took_s = began_s, ended_s - began_s
        self._partition_took_s = self._took_s / len(numbers)

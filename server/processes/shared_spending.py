"""What the serving processes spend of the exploration budgets, counted together on the board.

Each process counts on words of its own, and adds up those of all. A row of them is of one surface: which, when the
window began that it counts in, and how many items were explored in it.

Invariants: a window begins when a process spends and no window runs in any; who joins it takes over when it began.
So two processes that begin one at the same moment count in the same: rows that began less than a window before the
latest belong to it. What a process that was killed had spent stays spent. Rows are read whole: what was spent is
set to 0 before the row is moved to another window, and the time is read before and after.
"""

import hashlib
import threading
from collections.abc import Callable

from server.processes.board import SPENDING_WORDS, Board
from server.processes.segment import fence

_ROW = 4  # words
_SURFACE, _BEGAN_MS, _SPENT = range(3)
_MADE = 3  # of the first row alone: how many rows were ever made
ROWS = SPENDING_WORDS // _ROW


class SharedSpending:
    """Spending of all serving processes; has the methods of `server.budget_windows.Spending`.

    Args:
        board: of all processes.
        reader: number of this one.
        processes: how many there are.
        window_ms: length of a window.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self, board: Board, reader: int, *, processes: int, window_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        self._words = [board.spending(number) for number in range(processes)]
        self._own = self._words[reader]
        self._reader = reader
        self._window_ms = window_ms
        self._clock_ms = clock_ms
        self._keys: dict[str, int] = {}
        # Of each process how many rows it had made, and where those are, by surface.
        self._places: list[tuple[int, dict[int, int]]] = [(0, {}) for _ in self._words]
        self._lock = threading.Lock()

    def spent(self, surface: str) -> int:
        """See `Spending`."""
        key = self._key(surface)
        with self._lock:
            return self._window(key)[1]

    def spend(self, surface: str, items: int) -> None:
        """See `Spending`."""
        key, own = self._key(surface), self._own
        with self._lock:
            began_ms, _ = self._window(key)
            at = self._place(self._reader, key)
            if at < 0:
                at = self._new_row(key)
            if own[at + _BEGAN_MS] <= began_ms - self._window_ms:
                own[at + _SPENT] = 0
                fence()
                own[at + _BEGAN_MS] = began_ms
            own[at + _SPENT] += items

    def _window(self, key: int) -> tuple[int, int]:
        """When the window that runs began, or now where none does, and what all have spent in it."""
        rows = [
            _read(words, at) for reader, words in enumerate(self._words) if (at := self._place(reader, key)) >= 0
        ]
        now_ms = self._clock_ms()
        latest_ms = max((began_ms for began_ms, _ in rows), default=0)
        if now_ms >= latest_ms + self._window_ms:
            return now_ms, 0
        earliest_ms = latest_ms - self._window_ms
        return latest_ms, sum(spent for began_ms, spent in rows if began_ms > earliest_ms)

    def _key(self, surface: str) -> int:
        """A number for the surface, above 0; surfaces that are told apart are few."""
        key = self._keys.get(surface)
        if key is None:
            digest = hashlib.blake2b(surface.encode(), digest_size=8, person=b"freshet-surface").digest()
            key = self._keys[surface] = int.from_bytes(digest) >> 1 | 1
        return key

    def _place(self, reader: int, key: int) -> int:
        """Where a process has a row of a surface; -1 = nowhere."""
        words = self._words[reader]
        made, places = self._places[reader]
        if words[_MADE] != made:
            made = words[_MADE]
            fence()
            used = range(0, min(_ROW * made, SPENDING_WORDS), _ROW)
            places = {words[at + _SURFACE]: at for at in used}
            self._places[reader] = made, places
        return places.get(key, -1)

    def _new_row(self, key: int) -> int:
        """A row of our own for a surface, in place of the oldest where there is no more."""
        own = self._own
        at = _ROW * own[_MADE]
        if at >= SPENDING_WORDS:
            at = min(range(0, SPENDING_WORDS, _ROW), key=lambda row: own[row + _BEGAN_MS])
        own[at + _SPENT], own[at + _BEGAN_MS] = 0, 0
        fence()
        own[at + _SURFACE] = key
        fence()
        own[_MADE] += 1
        return at


def _read(words: "memoryview[int]", at: int) -> tuple[int, int]:
    while True:  # ends: who writes moves a row once a window
        began_ms = words[at + _BEGAN_MS]
        spent = words[at + _SPENT]
        if words[at + _BEGAN_MS] == began_ms:
            return began_ms, spent

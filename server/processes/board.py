"""Words that the processes tell each other: who reads what, what the writer has fitted, what has been explored.

Invariants: each word has one writer. That a reader has pinned a state is courtesy, not safety: one that was passed
over finds that out by the epochs of the segment. What was fitted is read whole or not at all. What a process has
told of its slates stays when it ends, and the one that takes its place goes on from there.
"""

import mmap
import os
import time

import numpy as np
import numpy.typing as npt

from server.limits import MAX_READERS
from server.processes.segment import anonymous_memory, fence

_LINE = 8  # words
_FIRST = 2 * _LINE  # of the readers; before it are the words of the writer
_SPENDING = _FIRST + _LINE * MAX_READERS
SPENDING_WORDS = 4 * 512  # of a reader, see `server.processes.shared_spending`
_SHOWN = _SPENDING + SPENDING_WORDS * MAX_READERS
SHOWN_WORDS = _LINE + (1 << 15)  # likewise, see `server.processes.shared_showings`
_BYTES = 8 * (_SHOWN + SHOWN_WORDS * MAX_READERS)  # what nobody has written to costs nothing
_BEATEN_AT_NS, _LEDGER_END, _FROZEN = range(3)
_WISH = 1  # behind the word that pins
# Odd while the floats behind it are written.
_FITTED = _LINE
_NUMBER_BITS, _EPOCH_BITS = 19, 44

Fitted = tuple[float, float, float]  # a0 and b0 of the Beta prior, and the pooled mean


class Board:
    """Memory of such words.

    Args:
        fd: as `make` has made it.

    Attributes:
        fd: to be handed to others.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _BYTES)
        self._words = memoryview(self._map).cast("q")
        self._floats = memoryview(self._map).cast("d")
        self._passed: dict[int, int] = {}

    @classmethod
    def make(cls) -> "Board":
        """New memory.

        Raises:
            Unshareable: the system has none that can be shared.
        """
        return cls(anonymous_memory("freshet-board", _BYTES))

    def close(self) -> None:
        """Let the file go; the memory stays mapped."""
        os.close(self.fd)

    # --- readers ------------------------------------------------------------------------------------------------

    def pin(self, reader: int, number: int, epoch: int) -> None:
        """A reader, 0 <= reader < MAX_READERS, reads an epoch of a segment."""
        self._words[_FIRST + _LINE * reader] = _pinned(number, epoch)

    def unpin(self, reader: int) -> None:
        """A reader has read, or has died."""
        self._words[_FIRST + _LINE * reader] = 0

    def wait_for_readers(self, number: int, epoch: int, *, longest_s: float, look_s: float) -> None:
        """Wait until nobody reads an epoch of a segment up to `epoch`, or the time is over.

        Who was waited for in vain is waited for again only once its word has changed.
        """
        places = range(_FIRST, _SPENDING, _LINE)
        waited_for = [at for at in places if self._reads(at, number, epoch)]
        deadline_s = time.monotonic() + longest_s
        while waited_for and time.monotonic() < deadline_s:
            time.sleep(look_s)
            waited_for = [at for at in waited_for if self._reads(at, number, epoch)]
        for at in waited_for:
            self._passed[at] = self._words[at]

    def _reads(self, at: int, number: int, epoch: int) -> bool:
        pin = self._words[at]
        if not pin or self._passed.get(at) == pin:
            return False
        return _pinned(number, 0) <= pin <= _pinned(number, epoch)

    def wish(self, reader: int, number: int) -> None:
        """A reader would read rows by cluster of a segment, if there were any."""
        self._words[_FIRST + _LINE * reader + _WISH] = number

    def wished(self, number: int) -> bool:
        """Whether any reader would."""
        return number in self._words[_FIRST + _WISH : _SPENDING : _LINE]

    def spending(self, reader: int) -> "memoryview[int]":
        """Words in which a reader counts what surfaces spend, `SPENDING_WORDS` of them."""
        first = _SPENDING + SPENDING_WORDS * reader
        return self._words[first : first + SPENDING_WORDS]

    def shown(self, reader: int) -> npt.NDArray[np.int64]:
        """Words in which a reader tells what it has shown, int64 of shape (SHOWN_WORDS,)."""
        return np.frombuffer(self._map, np.int64, SHOWN_WORDS, 8 * (_SHOWN + SHOWN_WORDS * reader))

    # --- the writer ---------------------------------------------------------------------------------------------

    def beat(self, *, ledger_end: int, frozen: bool) -> None:
        """The writer is alive, and says where the ledger ends."""
        self._words[_LEDGER_END], self._words[_FROZEN] = ledger_end, frozen
        self._words[_BEATEN_AT_NS] = time.monotonic_ns()

    def heard(self, *, within_s: float) -> tuple[int, bool] | None:
        """End of the ledger, and whether learning is frozen; None if the writer has been silent for longer."""
        if time.monotonic_ns() - self._words[_BEATEN_AT_NS] > within_s * 1e9:
            return None
        return self._words[_LEDGER_END], bool(self._words[_FROZEN])

    @property
    def fitted_at(self) -> int:
        """Changes with what has been fitted."""
        return self._words[_FITTED]

    def tell_fitted(self, fitted: Fitted) -> None:
        """Say what has been fitted to the items."""
        began = self._words[_FITTED] | 1
        self._words[_FITTED] = began
        fence()
        for at, value in enumerate(fitted):
            self._floats[_FITTED + 1 + at] = value
        fence()
        self._words[_FITTED] = began + 1

    def fitted(self) -> tuple[int, Fitted] | None:
        """When, and what has been fitted; None while it is being written, or was never."""
        before = self._words[_FITTED]
        fence()
        a0, b0, pooled = self._floats[_FITTED + 1 : _FITTED + 4].tolist()
        fence()
        if before & 1 or before == 0 or self._words[_FITTED] != before:
            return None
        return before, (a0, b0, pooled)


def _pinned(number: int, epoch: int) -> int:
    """Never 0, as epochs that are read begin at 1."""
    return (number % (1 << _NUMBER_BITS)) << _EPOCH_BITS | epoch

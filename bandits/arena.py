"""Append-only columns addressed by an ever-growing number, dropped from the front.

Invariants: number q lives in [first, end); an element keeps its number for life; memory stays within a constant
factor of what is alive; a view is good until something is added.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Column = npt.NDArray[Any]

_SMALLEST = 64
_SPARSE = 8  # columns this many times larger than what is alive are made smaller


class Arena:
    """Columns of fixed dtypes.

    Examples:
        >>> arena = Arena(value=np.int64)
        >>> arena.append(value=np.array([7, 8, 9]))
        >>> arena.drop_before(1)
        >>> arena.take("value", np.array([1, 2])).tolist(), arena.first, arena.end
        ([8, 9], 1, 3)
    """

    def __init__(self, **dtypes: npt.DTypeLike) -> None:
        self._columns = {name: np.zeros(_SMALLEST, dtype) for name, dtype in dtypes.items()}
        self._start = 0  # where element `first` lies in the columns
        self.first = 0
        self.end = 0

    def __len__(self) -> int:
        return self.end - self.first

    def start_at(self, number: int) -> None:
        """Let an empty arena continue at a number."""
        if len(self):
            raise ValueError(f"arena: expected to be empty, got {len(self)} elements")
        self.first = self.end = number
        self._start = 0

    def append(self, **values: Column | int) -> None:
        """Add elements; every column is given, all of equal length, or one value for all elements."""
        count = next(len(column) for column in values.values() if isinstance(column, np.ndarray))
        self.grow(count)
        at = self._start + len(self) - count
        for name, column in self._columns.items():
            column[at : at + count] = values[name]

    def grow(self, count: int) -> None:
        """Add elements of any value, to be written to by way of `view`."""
        self._reserve(count)
        self.end += count

    def cut(self, end: int) -> None:
        """Take elements from a number on back, which were just added."""
        self.end = end

    def view(self, name: str) -> Column:
        """The alive part of a column: writable, in order of number, valid until the next append."""
        return self._columns[name][self._start : self._start + len(self)]

    def take(self, name: str, numbers: Int64) -> Column:
        """Elements by number, all of which must be alive."""
        return self.view(name)[numbers - self.first]

    def drop_before(self, number: int) -> None:
        """Forget all elements below a number."""
        dropped = min(max(number - self.first, 0), len(self))
        self.first += dropped
        self._start += dropped

    def _reserve(self, count: int) -> None:
        size = len(next(iter(self._columns.values())))
        needed = len(self) + count
        if self._start + needed <= size <= max(_SMALLEST, _SPARSE * needed):
            return
        # Moving is paid for by what was added or dropped since the last time: amortised O(1).
        if 2 * needed <= size <= max(_SMALLEST, _SPARSE * needed):
            for column in self._columns.values():  # memory that was written to before costs no page faults
                column[: len(self)] = column[self._start : self._start + len(self)]
            self._start = 0
            return
        grown = max(_SMALLEST, 5 * needed // 2)
        for name, column in self._columns.items():
            fresh = np.zeros(grown, column.dtype)
            fresh[: len(self)] = self.view(name)
            self._columns[name] = fresh
        self._start = 0


def ranges(starts: Column, sizes: Column) -> Int64:
    """Concatenated `arange(start, start + size)` of each pair, int64 of shape (sizes.sum(),).

    Examples:
        >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(sizes)
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)

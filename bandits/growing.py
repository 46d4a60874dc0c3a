"""An array that grows at its end without being copied each time.

Invariant: a view that was handed out never changes by growth; only what lies behind the longest view is written.
"""

from typing import Any

import numpy.typing as npt

from bandits.aligned import aligned_zeros

Array = npt.NDArray[Any]

_LEAST_ROOM = 4_096
_ROOM_SHARE = 8  # room for one more row in so many


class Growing:
    """Rows with room behind them.

    Args:
        array: of any shape; its first axis grows.

    Examples:
        >>> import numpy as np
        >>> rows, view = Growing(np.array([1, 2])).extended(2, np.array([3]))
        >>> longer = rows.extended(3, np.array([4]))[1]
        >>> view.tolist(), longer.tolist(), np.shares_memory(view, longer)
        ([1, 2, 3], [1, 2, 3, 4], True)
    """

    def __init__(self, array: Array) -> None:
        self._buffer = array
        self._used = len(array)

    @classmethod
    def zeros(cls, length: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple["Growing", Array]:
        """Rows of zeros with room behind them, and a view of the rows.

        Args:
            length: number of rows.
            shape: of a row.
            dtype: of the elements.
        """
        # Memory that nobody has written to costs nothing yet.
        growing = cls(aligned_zeros((length + max(_LEAST_ROOM, length // _ROOM_SHARE), *shape), dtype))
        growing._used = length
        return growing, growing._buffer[:length]

    def fits(self, length: int, more: int) -> bool:
        """Whether so many more rows can be put behind the first `length` in place."""
        return length == self._used and length + more <= len(self._buffer)

    def extended(self, length: int, rows: Array, *, in_place: bool = True) -> tuple["Growing", Array]:
        """The first `length` rows and then `rows`, in place where they fit and nothing else was put there.

        Args:
            length: rows that stay.
            rows: what comes behind them.
            in_place: False = copy in any case.

        Returns:
            What to extend next, and a view of all rows, writable.
        """
        end = length + len(rows)
        target = self
        if not in_place or not self.fits(length, len(rows)):
            target, _ = Growing.zeros(end, self._buffer.shape[1:], self._buffer.dtype)
            target._buffer[:length] = self._buffer[:length]
        if end > length:  # the first buffer may be read-only
            target._buffer[length:end] = rows
        target._used = end
        return target, target._buffer[:end]

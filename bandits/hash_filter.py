"""Which of many hashes may be among some that come and go: counts by their low bits.

Invariants: a hash that is among them is never missed; of the others one in sixteen at most is taken for
one of them, as long as there are no more than it fits.
"""

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
UInt64 = npt.NDArray[np.uint64]

_SMALLEST = 4_096
_ROOM = 16  # counts for each hash: one of so many others is looked at in vain


class HashFilter:
    """Counts of hashes.

    Args:
        hashes: uint64, those that it begins with.

    Examples:
        >>> some = HashFilter(np.array([5, 6, 5], np.uint64))
        >>> some.remove(np.array([5, 6], np.uint64))
        >>> some.may_have(np.array([5, 6, 7], np.uint64)).tolist()
        [True, False, False]
    """

    def __init__(self, hashes: UInt64) -> None:
        size = max(_SMALLEST, 1 << (_ROOM * len(hashes)).bit_length())
        self._mask = np.uint64(size - 1)
        self._counts: Int32 = np.bincount((hashes & self._mask).astype(np.int64), minlength=size).astype(np.int32)

    def fits(self, count: int) -> bool:
        """Whether it is large enough for so many hashes."""
        return _ROOM * count <= len(self._counts)

    def add(self, hashes: UInt64) -> None:
        """Hashes have come; those that come twice count twice."""
        np.add.at(self._counts, hashes & self._mask, 1)

    def remove(self, hashes: UInt64) -> None:
        """Hashes have gone that had come."""
        np.subtract.at(self._counts, hashes & self._mask, 1)

    def may_have(self, hashes: UInt64) -> Bool:
        """False for each that is not there, bool of shape (n,)."""
        there: Bool = self._counts[hashes & self._mask] > 0
        return there

"""Arrays that start on a cache line, so that a row of whole lines touches no other.

NumPy aligns to 16 bytes; a row of 12 lines then lies on 13, and so on for every row.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

CACHE_LINE = 64  # bytes


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros of any shape and dtype whose first element lies at the start of a cache line.

    Examples:
        >>> aligned_zeros((3, 2), np.int64).ctypes.data % CACHE_LINE
        0
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if it starts on a cache line, else a copy that does."""
    if array.ctypes.data % CACHE_LINE == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy

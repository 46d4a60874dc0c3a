"""Checks of the columns that estimators take: finite numbers, equal lengths, probabilities.

Promise: what passes is a float64 array of the stated shape without NaN or infinity; what does not is refused
with a ValueError that names the argument, what was expected and what came.
"""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def finite(name: str, values: npt.ArrayLike, *, shape: tuple[int, ...] | None = None, ndim: int = 1) -> Float64:
    """Float64 array of `ndim` dimensions, or of `shape` where one is given, not empty, without NaN or infinity."""
    array = np.asarray(values, dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} as the other columns have, got {array.shape}")
    if array.ndim != ndim and shape is None:
        raise ValueError(f"{name}: expected {ndim} dimension(s), got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one round, got none")
    _refuse(name, ~np.isfinite(array), array, "finite numbers")
    return array


def weights(name: str, values: npt.ArrayLike, *, shape: tuple[int, ...] | None = None, ndim: int = 1) -> Float64:
    """As `finite`, and nothing negative."""
    array = finite(name, values, shape=shape, ndim=ndim)
    _refuse(name, array < 0, array, "weights >= 0")
    return array


def probabilities(
    name: str, values: npt.ArrayLike, *, shape: tuple[int, ...] | None = None, ndim: int = 1
) -> Float64:
    """As `finite`, and everything in [0, 1]."""
    array = finite(name, values, shape=shape, ndim=ndim)
    _refuse(name, (array < 0) | (array > 1), array, "probabilities in [0, 1]")
    return array


def fraction(name: str, value: float) -> float:
    """A level such as alpha, strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")
    return value


def not_negative(name: str, value: float) -> float:
    """A limit that may be 0 or infinite."""
    if not value >= 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return value


def _refuse(name: str, bad: Bool, array: Float64, expected: str) -> None:
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        at = first[0] if len(first) == 1 else first
        raise ValueError(f"{name}: expected {expected}, got {array[first]} at {at} ({int(bad.sum())} in all)")

"""A reward model that needs no fitting: mean reward of an action at a position, drawn towards the overall mean.

Promise: predictions lie within the range of the rewards; an action that was never logged gets the overall mean.
It is in-sample: the round it predicts is among those it was made from, which favours the direct method.
"""

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.columns import Float64


def tabular_model(
    action: npt.ArrayLike,
    position: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    n_actions: int,
    n_positions: int,
    strength: float = 100.0,
) -> Float64:
    """q(a, k) = (sum of r at (a, k) + m rbar) / (n(a, k) + m), float64 of shape (n_actions, n_positions).

    Args:
        action: integers of shape (n,) in 0..n_actions-1.
        position: integers of shape (n,) in 0..n_positions-1.
        reward: of shape (n,).
        n_actions: number of actions.
        n_positions: number of positions.
        strength: m > 0, the number of imagined rounds at the overall mean rbar.
    """
    r = columns.finite("reward", reward)
    a = _numbers("action", action, len(r), n_actions)
    k = _numbers("position", position, len(r), n_positions)
    if not 0 < strength < np.inf:
        raise ValueError(f"strength: expected a number > 0, got {strength}")
    cell = a * n_positions + k
    cells = n_actions * n_positions
    total = np.bincount(cell, weights=r, minlength=cells)
    rounds = np.bincount(cell, minlength=cells)
    q: Float64 = (total + strength * r.mean()) / (rounds + strength)
    return q.reshape(n_actions, n_positions)


def _numbers(name: str, values: npt.ArrayLike, rounds: int, end: int) -> npt.NDArray[np.int64]:
    numbers = np.asarray(values)
    if numbers.shape != (rounds,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name}: expected integers of shape ({rounds},), got {numbers.dtype} {numbers.shape}")
    if numbers.min() < 0 or numbers.max() >= end:
        raise ValueError(f"{name}: expected numbers from 0 to {end - 1}, got {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.int64)

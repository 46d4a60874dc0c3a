"""How likely the slot at each position is looked at, estimated from slots that were filled at random.

The examination hypothesis (Richardson, Dominowska and Ragno, WWW 2007): an item at position k is clicked with
probability gamma_k * theta. Where an item lands at several positions at random, its clicks there tell the ratio of
the gammas (Agarwal et al., Estimating position bias without intrusive interventions, WSDM 2019). Each shown item is
weighted by the inverse of its propensity, so that what decided on the position, the user's context and the scores,
falls out; an effect of each item takes up what is left, as positions differ in the items that can land there.

Invariants: only slots that chance had a say in are used; a position without enough of them is NaN, never a guess.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_ROUNDS = 500
_CLOSE = 1e-9
_GROUPS = 10  # of the jackknife


@dataclass(frozen=True, eq=False)
class GammaEstimate:
    """Gammas relative to the top position.

    Attributes:
        gamma: float64 of shape (n_positions,), 1 at the top; NaN where the log does not say.
        error: float64 of shape (n_positions,), standard error, NaN where unknown, 0 at the top.
        used: int64 of shape (n_positions,), shown items that were used.
        shown: int64 of shape (n_positions,), shown items in all.
    """

    gamma: Float64
    error: Float64
    used: Int64
    shown: Int64


def estimate_gammas(
    *,
    slate: npt.ArrayLike,
    item: npt.ArrayLike,
    position: npt.ArrayLike,
    propensity: npt.ArrayLike,
    reward: npt.ArrayLike,
    largest_propensity: float = 0.99,
    largest_weight: float = 1_000.0,
) -> GammaEstimate:
    """Estimate gammas from shown items; columns of shape (n_rows,).

    Args:
        slate: number of each row's slate; errors take slates as independent.
        item: item numbers; rows below 0 are left out.
        position: from 0, the top.
        propensity: probability that the item was put at its position; 0 = unknown, left out.
        reward: 0 or more.
        largest_propensity: slots that were filled with a higher one are not random enough.
        largest_weight: inverse propensities are clipped to it.

    Raises:
        ValueError: columns differ in length, or there are none.
    """
    columns = [np.asarray(column) for column in (slate, item, position, propensity, reward)]
    if len({len(column) for column in columns}) != 1 or not len(columns[0]):
        raise ValueError(f"rows: expected columns of one length, 1 or more, got {[len(c) for c in columns]}")
    slates, items, positions, chances, rewards = columns
    n_positions = int(positions.max()) + 1
    random = (items >= 0) & (chances > 0) & (chances <= largest_propensity)
    weight = np.minimum(1.0 / np.where(random, chances, 1.0), largest_weight)
    group = slates % _GROUPS

    def fit(rows: npt.NDArray[np.bool_]) -> Float64:
        return _fit(items[rows], positions[rows], weight[rows], weight[rows] * rewards[rows], n_positions)

    gamma = fit(random)
    left_out = np.array([fit(random & (group != number)) for number in range(_GROUPS)])
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    error = np.sqrt((_GROUPS - 1) / _GROUPS * spread)
    return GammaEstimate(
        gamma=gamma,
        error=np.where(np.isnan(gamma), np.nan, error),
        used=np.bincount(positions[random], minlength=n_positions),
        shown=np.bincount(positions, minlength=n_positions),
    )


def _fit(item: Int64, position: Int64, shown: Float64, earned: Float64, n_positions: int) -> Float64:
    """Most likely gammas of earned ~ Poisson(shown * gamma[position] * theta[item]), by turns."""
    numbers, item = np.unique(item, return_inverse=True)
    gamma = np.full(n_positions, np.nan)
    linked = _linked(item, position, earned, len(numbers), n_positions)
    if not linked[0]:
        return gamma
    gamma[linked] = 1.0
    used = linked[position]
    item, position, shown, earned = item[used], position[used], shown[used], earned[used]
    by_item = np.bincount(item, earned, len(numbers))
    by_position = np.bincount(position, earned, n_positions)
    known = np.where(linked, gamma, 0.0)
    for _ in range(_ROUNDS):
        seen = np.bincount(item, shown * known[position], len(numbers))
        theta = by_item / np.maximum(seen, 1e-300)
        expected = np.bincount(position, shown * theta[item], n_positions)
        after = np.where(linked, by_position / np.maximum(expected, 1e-300), 0.0)
        after /= after[0]
        moved = np.abs(after - known).max()
        known = after
        if moved < _CLOSE:
            break
    gamma[linked] = known[linked]
    return gamma


def _linked(item: Int64, position: Int64, earned: Float64, n_items: int, n_positions: int) -> npt.NDArray[np.bool_]:
    """Positions that share items, with rewards at both, with the top or with positions that do."""
    earning = np.zeros((n_positions, n_items), np.bool_)
    earning[position[earned > 0], item[earned > 0]] = True
    linked: npt.NDArray[np.bool_] = np.zeros(n_positions, np.bool_)
    linked[0] = bool(earning[0].any())
    while True:
        reached = earning[linked].any(axis=0)
        more: npt.NDArray[np.bool_] = np.asarray((earning & reached).any(axis=1))
        if (more == linked).all() or not linked[0]:
            return linked
        linked = more

"""The sums that scores are computed from, made of all that is kept: one table of a, d and b whatever is set.

Invariants: rows without extra sums are served as they are; widths count what is in flight, means do not; positions
and age have been applied. So everything that scores, compiled or not, reads three sums and knows of nothing else.
"""

import numpy as np
import numpy.typing as npt

from bandits.policy_settings import PolicySettings
from bandits.sums import EXCESS, LARGEST, OPEN, PAST_A, PAST_EXCESS, UNIT, A, B, D, Int64

Float64 = npt.NDArray[np.float64]


def served_rows(
    edge: Int64, extra: Int64, newest: Float64, past: Float64, settings: PolicySettings
) -> tuple[Int64, Int64]:
    """Rows as they are to be scored from.

    With the averaged estimator b becomes the sum of w*r, whose mean over a is free of the position (a holds
    gamma * w). With the diagonal one b grows as d does by what is in flight, so that the mean stays.

    Args:
        edge: int64 of shape (m, 3), rows of `Sums.edge`.
        extra: int64 of shape (m, 6), rows of `Sums.extra`.
        newest: float64 of shape (m,), what the sums of the newest block are multiplied by (`bandits.forgetting`).
        past: float64 of shape (m,), likewise of the block before it.
        settings: of the policy.

    Returns:
        int64 of shape (m, 3): a, d and b; int64 of shape (m,): what of d is in flight.
    """
    rows = _faded(edge, extra[:, PAST_A:PAST_EXCESS], newest, past)
    in_flight = np.maximum(extra[:, OPEN], 0)
    shown = rows[:, A] > 0
    d = rows[:, D]
    served_d = np.minimum(d, LARGEST - in_flight) + in_flight
    if settings.estimator == "diagonal":
        believed = settings.prior_mean * settings.prior_strength * UNIT**2
        strength = settings.prior_strength * UNIT**2
        growth = (served_d + strength) / np.maximum(d + strength, 1.0)
        scaled = np.rint((rows[:, B] + believed) * growth - believed).astype(np.int64)
        b = np.where(in_flight > 0, np.maximum(scaled, 0), rows[:, B])
        unseen_b = np.rint(settings.prior_mean * served_d).astype(np.int64)
    else:
        excess = _faded(extra[:, EXCESS, None], extra[:, PAST_EXCESS, None], newest, past)[:, 0]
        b = np.minimum(rows[:, B], LARGEST - excess) + excess
        unseen_b = np.full(len(rows), round(settings.prior_mean * UNIT), np.int64)
    # An edge that is in flight and has not counted yet is believed to be what an unseen one is believed to be.
    waiting = ~shown & (in_flight > 0)
    a = np.where(waiting, 1, rows[:, A])
    return np.column_stack([a, served_d, np.where(waiting, unseen_b, b)]), in_flight


def _faded(newest_rows: Int64, past_rows: Int64, newest: Float64, past: Float64) -> Int64:
    """Both blocks brought to one time; what is not 0 stays at least 1, and what does not fade keeps its bits."""
    plain = (newest == 1.0) & (past == 0.0)
    if plain.all():
        return newest_rows
    total = newest_rows * newest[:, None] + past_rows * past[:, None]
    positive = (newest_rows > 0) | ((past_rows > 0) & (past[:, None] > 0))
    faded = np.maximum(np.rint(np.minimum(total, 2.0**62)).astype(np.int64), positive)
    rows: Int64 = np.where(plain[:, None], newest_rows, faded)
    return rows

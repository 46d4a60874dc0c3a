"""The sums that scores are computed from, made of all that is kept: one table of a, d and b whatever is set.

Invariants: rows without extra sums are served as they are; widths count what is in flight, means do not; positions
and age have been applied. So everything that scores, compiled or not, reads three sums and knows of nothing else.
"""

import numpy as np
import numpy.typing as npt

from bandits.policy_settings import PolicySettings
from bandits.sums import EXCESS, LARGEST, OPEN, PAST_A, PAST_EXCESS, UNIT, A, B, D, Int64, N

Float64 = npt.NDArray[np.float64]


def served_rows(
    edge: Int64, extra: Int64, newest: Float64, past: Float64, settings: PolicySettings, owner: Int64
) -> tuple[Int64, Int64]:
    """Rows as they are to be scored from.

    With the averaged estimator b becomes the sum of w*r, whose mean over a is free of the position (a holds
    gamma * w), and d what w*r teaches, the sum of gamma * w^2 (see `_informed`). By what is in flight d grows; b,
    and a with the averaged estimator, grow as much, so that means that are divided by d stay. Where the averaged
    estimator has a prior, its mean would not: then a and b do not grow.

    Args:
        edge: int64 of shape (m, 3), rows of `Sums.edge`.
        extra: int64 of shape (m, 6), rows of `Sums.extra`.
        newest: float64 of shape (m,), what the sums of the newest block are multiplied by (`bandits.forgetting`).
        past: float64 of shape (m,), likewise of the block before it.
        settings: of the policy.
        owner: int64 of shape (m,), a number for the item of each edge, from 0 on and ascending.

    Returns:
        int64 of shape (m, 3): a, d and b; int64 of shape (m,): what of d is in flight.
    """
    rows = _faded(edge, extra[:, PAST_A:PAST_EXCESS], newest, past)
    excess = _faded(extra[:, EXCESS, None], extra[:, PAST_EXCESS, None], newest, past)[:, 0]
    in_flight = np.maximum(extra[:, OPEN], 0)
    shown = rows[:, A] > 0
    d = rows[:, D]
    if settings.estimator == "averaged" and excess.any():
        d, in_flight = _informed(rows, in_flight, excess, owner)
    served_d = np.minimum(d, LARGEST - in_flight) + in_flight
    if settings.estimator == "diagonal":
        believed = settings.prior_mean * settings.prior_strength * UNIT**2
        strength = settings.prior_strength * UNIT**2
        growth = (served_d + strength) / np.maximum(d + strength, 1.0)
        scaled = np.rint((rows[:, B] + believed) * growth - believed).astype(np.int64)
        b = np.where(in_flight > 0, np.maximum(scaled, 0), rows[:, B])
        unseen_b = np.rint(settings.prior_mean * served_d).astype(np.int64)
        a = rows[:, A]
    else:
        a, b = rows[:, A], np.minimum(rows[:, B], LARGEST - excess) + excess
        if not settings.prior_strength:
            strength = settings.edge_strength / settings.pooled_mean * UNIT**2
            growth = (served_d + strength) / np.maximum(d + strength, 1.0)
            grown = np.where(in_flight > 0, np.rint(a * growth).astype(np.int64), a)
            # By what a grew after rounding, so that their ratio stays.
            b = np.where(in_flight > 0, np.rint(b * (grown / np.maximum(a, 1))).astype(np.int64), b)
            a = grown
        unseen_b = np.full(len(rows), round(settings.prior_mean * UNIT), np.int64)
    # An edge that is in flight and has not counted yet is believed to be what an unseen one is believed to be.
    waiting = ~shown & (in_flight > 0)
    a = np.where(waiting, 1, a)
    return np.column_stack([a, served_d, np.where(waiting, unseen_b, b)]), in_flight


def _informed(rows: Int64, in_flight: Int64, excess: Int64, owner: Int64) -> tuple[Int64, Int64]:
    """The sum of gamma * w^2 of each edge and of what of it is in flight, from d, the sum of gamma^2 * w^2.

    The sum of w*(r - gamma m) over that of gamma * w^2 is how far an edge is from m, and the variance of a reward
    over the same sum is its variance; over d both would be too large, by 1 / gamma where that is constant. Where an
    item is shown does not depend on the user's weights, so the two sums are as the mean gamma to the mean gamma^2;
    and so are, over the item's clicks, the sums of w*r and x*r, whatever is clicked how often. As w <= 1, no edge
    knows more than a.
    """
    size = int(owner[-1]) + 1
    by_x = np.bincount(owner, rows[:, B], size)
    ratio = (1.0 + np.bincount(owner, excess, size) / np.maximum(by_x, 1.0))[owner]
    most = np.minimum(rows[:, A].astype(np.float64) * UNIT, 2.0**62)
    d = np.maximum(np.rint(np.minimum(rows[:, D] * ratio, most)).astype(np.int64), rows[:, D])
    flying = np.rint(np.minimum(in_flight * ratio, 2.0**62)).astype(np.int64)
    grows = ratio > 1.0  # the others keep their bits
    return np.where(grows, d, rows[:, D]), np.where(grows, flying, in_flight)


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


def served_items(item: Int64, edge: Int64, extra: Int64, newest: Float64, past: Float64, owner: Int64) -> Int64:
    """Impressions and rewards of items as they are to be scored from: without the position and the age of edges.

    Where positions matter or old impressions are forgotten, n becomes the sum of a over the edges of an item, and s
    that many times the sum of w*r over it: how often the item was looked at by its clusters' users, lately.

    Args:
        item: int64 of shape (n_items, 2), rows of `Sums.item`.
        edge: rows of their edges, as in `served_rows`.
        extra: likewise.
        newest: as in `served_rows`.
        past: likewise.
        owner: int64 of shape (m,), number of the item of each edge among the rows of `item`.
    """
    counted = _faded(edge, extra[:, PAST_A:PAST_EXCESS], newest, past)
    excess = _faded(extra[:, EXCESS, None], extra[:, PAST_EXCESS, None], newest, past)[:, 0]
    touched = extra[:, EXCESS:].any(axis=1) | (newest != 1.0)
    size = len(item)
    looked = np.bincount(owner, counted[:, A], size) / UNIT
    earned = np.bincount(owner, counted[:, B].astype(np.float64) + excess, size) / UNIT**2
    changed = (np.bincount(owner, touched, size) > 0) & (looked > 0) & (item[:, N] > 0)
    impressions = np.maximum(np.rint(looked), 1.0)
    rewards = np.rint(impressions * earned / np.where(changed, looked, 1.0) * UNIT)
    served: Int64 = np.where(changed[:, None], np.column_stack([impressions, rewards]), item).astype(np.int64)
    return served

"""Ranks of candidates whose scores are drawn independently of each other: the definition, in NumPy.

Candidate i scores base_i + scale_i * T_i, where the T_i are independent and of one law: standard normal
(`thompson`), or the root of a standard exponential draw (`randomized_ucb`). Then

    P(j has rank r) = integral of P(exactly r others score above x) dF_j(x)

and the number of others above x is a sum of independent coins (a Poisson binomial). `bandits.numba_ranks` computes
the same at fewer points x, chosen; here they are many quantiles of everybody's law.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MOST_RANKS = 32  # slots, or ranks that are permuted; beyond, redraws are cheaper
# Candidates of smaller chances than this are counted together if they are many, by a sample of so many of them.
SMALL_CHANCE = 0.1
CROWD, SAMPLED = 128, 128
# How many points are looked at: quantiles of each candidate of the slate and of some behind it.
MOST_QUANTILES, MOST_NODES, MORE_NODES = 7, 96, 4
FLOOR_SAMPLE = 512  # candidates that the score is estimated from below which nobody gets into the slate
HIGHEST_NORMAL = 5.0
HIGHEST_ROOT = 3.44  # of draws of 16 bits
COLLAPSED = 1e-12  # a law narrower than this part of its place is a point
SMALLEST_PROPENSITY = 1e-6  # what is told of a candidate that is served against all odds


def _quantiles(count: int) -> tuple[float, ...]:
    """Shares between 0 and 1, closer to each other at both ends."""
    return tuple(0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count))


NORMAL_QUANTILES: Float64 = np.zeros((MOST_QUANTILES + 1, MOST_QUANTILES))
ROOT_QUANTILES: Float64 = np.zeros((MOST_QUANTILES + 1, MOST_QUANTILES))
for _count in range(1, MOST_QUANTILES + 1):
    NORMAL_QUANTILES[_count, :_count] = ndtri(_quantiles(_count))
    ROOT_QUANTILES[_count, :_count] = np.sqrt(-np.log1p(-np.array(_quantiles(_count))))


def rank_probabilities(
    base: Float64, scale: Float64, *, normal: bool, chosen: Int64, depth: int, points: int = 200
) -> Float64:
    """P(chosen[at] has rank r) for r < depth, float64 of shape (chosen, depth).

    Args:
        base: float64 of shape (n,).
        scale: float64 of shape (n,), more than 0.
        normal: the law of T: standard normal, or the root of a standard exponential draw.
        chosen: candidates.
        depth: 1 or more.
        points: of each law that the integral is computed at.
    """
    shares = (np.arange(points) + 0.5) / points
    quantiles = ndtri(shares) if normal else np.sqrt(-np.log1p(-shares))
    at = np.unique(base + scale * quantiles[:, None])
    t = (at - base[:, None]) / scale[:, None]
    above = ndtr(-t) if normal else np.exp(-(np.maximum(t, 0.0) ** 2))
    ranks = np.empty((len(chosen), depth))
    for row, j in enumerate(chosen.tolist()):
        counts = np.zeros((depth, len(at)))
        counts[0] = 1.0
        for coin in np.delete(above, j, axis=0):
            counts[1:] += coin * (counts[:-1] - counts[1:])
            counts[0] *= 1.0 - coin
        # What lies outside the points is next to the first and the last.
        falls = -np.diff(above[j], prepend=1.0, append=0.0)
        between = np.concatenate([counts[:, :1], (counts[:, 1:] + counts[:, :-1]) / 2, counts[:, -1:]], axis=1)
        ranks[row] = between @ falls
    return ranks

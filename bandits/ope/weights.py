"""Importance weights and the four ways of taming them.

Promise: every transformation is elementwise, keeps weights non-negative, and has a setting at which it does
nothing. Each is the weight of a named estimator: clipped IPS and DR, Switch-DR, DRos, SG-IPS and SG-DR are
`ips` or `doubly_robust` on the transformed weights.
"""

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.columns import Float64
from bandits.ope.support import NoSupport


def importance_weights(evaluation: npt.ArrayLike, logged: npt.ArrayLike) -> Float64:
    """Weights w = pi_e / pi_0 at the logged action, of the shape of the arguments: (n,), or (n, length) for slates.

    Args:
        evaluation: probability of the logged action under the evaluation policy, in [0, 1].
        logged: probability with which the logging policy took it, in (0, 1].

    Raises:
        NoSupport: a logged propensity is zero or missing (NaN).
        ValueError: anything else is no probability, or the shapes differ.

    Examples:
        >>> importance_weights([0.2, 0.0], [0.1, 0.5]).tolist()
        [2.0, 0.0]
    """
    base = np.asarray(logged, dtype=np.float64)
    unusable = np.isnan(base) | (base == 0)
    if unusable.any():
        raise NoSupport(
            f"logged: a propensity > 0 is needed in every round, it is missing or zero in {int(unusable.sum())} of "
            f"{base.size} (first at {int(np.argmax(unusable))})"
        )
    base = columns.probabilities("logged", base, ndim=base.ndim)
    target = columns.probabilities("evaluation", evaluation, shape=base.shape)
    return target / base


def clip_weights(weight: npt.ArrayLike, limit: float) -> Float64:
    """Clipping, min(w, limit) (Ionides 2008): no upward bias for rewards >= 0; limit = inf changes nothing."""
    return np.minimum(_weights(weight), columns.not_negative("limit", limit))


def switch_weights(weight: npt.ArrayLike, limit: float) -> Float64:
    """Weights above the limit set to 0 (Wang, Agarwal, Dudik 2017): there the reward model alone speaks."""
    w = _weights(weight)
    return np.where(w <= columns.not_negative("limit", limit), w, 0.0)


def shrink_weights(weight: npt.ArrayLike, strength: float) -> Float64:
    """Optimistic shrinkage, lambda w / (w^2 + lambda) (Su et al. 2020).

    Strength 0 leaves the reward model alone, inf changes nothing. The result is at most
    sqrt(lambda) / 2, reached at w = sqrt(lambda).
    """
    w = _weights(weight)
    lam = columns.not_negative("strength", strength)
    if lam == 0:
        return np.zeros_like(w)
    return w if np.isinf(lam) else w / (w * w / lam + 1.0)


def smooth_weights(weight: npt.ArrayLike, strength: float) -> Float64:
    """Subgaussian weights, w / (1 - lambda + lambda w), lambda in [0, 1] (Metelli et al. 2021); 0 is no change."""
    w = _weights(weight)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: expected a number in [0, 1], got {strength}")
    denominator = 1.0 - strength + strength * w
    return np.divide(w, denominator, out=np.zeros_like(w), where=denominator > 0)


def _weights(weight: npt.ArrayLike) -> Float64:
    return columns.weights("weight", weight, ndim=np.ndim(weight))

"""Estimators of the value of a policy from rounds logged by another: replay, IPS, SNIPS, DM, DR, SNDR.

Promise: every estimator returns its value together with one term a round whose mean is that value. With weights
of 1 (the evaluation policy is the logging policy) IPS and SNIPS are the plain mean of the rewards.

Symbols: w = pi_e / pi_0 at the logged action, r the reward, q(a) a reward model, v = sum_a pi_e(a) q(a).
Clipped, switched, shrunk and subgaussian variants are `ips` and `doubly_robust` on the weights of
`bandits.ope.weights`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.columns import Float64
from bandits.ope.support import NoSupport


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated policy value.

    Attributes:
        value: the estimate, in units of the reward.
        terms: float64 of shape (n,), one per round or slate; their mean is `value`.
        influence: float64 of shape (n,), mean `value`; the terms to take intervals over. The same as `terms` except
            for self-normalised estimators, whose denominator is random too: there it is the linearised term
            (delta method), and an interval over `terms` would ignore half of the noise.
    """

    value: float
    terms: Float64
    influence: Float64

    @classmethod
    def from_terms(cls, terms: Float64, *, influence: Float64 | None = None) -> "Estimate":
        """The mean of the terms."""
        return cls(float(terms.mean()), terms, terms if influence is None else influence)


def ips(weight: npt.ArrayLike, reward: npt.ArrayLike) -> Estimate:
    """Inverse propensity scoring, mean(w r) (Horvitz and Thompson 1952): unbiased with full support.

    Args:
        weight: of shape (n,), >= 0.
        reward: of shape (n,), any finite numbers.

    Examples:
        >>> ips([2.0, 0.0, 1.0], [1, 1, 1]).value
        1.0
    """
    w, r = _pair(weight, reward)
    return Estimate.from_terms(w * r)


def snips(weight: npt.ArrayLike, reward: npt.ArrayLike) -> Estimate:
    """Self-normalised IPS, sum(w r) / sum(w) (Swaminathan and Joachims 2015): always within the range of rewards.

    A log thinned by keeping a round with probability k is undone by dividing its weight by k.

    Raises:
        NoSupport: every weight is 0.
    """
    w, r = _pair(weight, reward)
    mean = _mean_weight(w)
    terms = w * r / mean
    value = float(terms.mean())
    return Estimate(value, terms, value + w * (r - value) / mean)


def direct_method(model_value: npt.ArrayLike) -> Estimate:
    """Direct method, mean(v): what the reward model says, whatever was observed; its interval ignores model error.

    Args:
        model_value: v = sum_a pi_e(a) q(a) of shape (n,), see `expected_reward`.
    """
    return Estimate.from_terms(columns.finite("model_value", model_value))


def doubly_robust(
    weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    model_reward: npt.ArrayLike,
    model_value: npt.ArrayLike,
) -> Estimate:
    """Doubly robust, mean(v + w (r - q)) (Dudik, Langford, Li 2011): unbiased if weights or model are right.

    Args:
        weight: of shape (n,), >= 0.
        reward: of shape (n,).
        model_reward: q at the logged action, of shape (n,).
        model_value: v = sum_a pi_e(a) q(a), of shape (n,).
    """
    w, r = _pair(weight, reward)
    q = columns.finite("model_reward", model_reward, shape=r.shape)
    v = columns.finite("model_value", model_value, shape=r.shape)
    return Estimate.from_terms(v + w * (r - q))


def self_normalised_doubly_robust(
    weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    model_reward: npt.ArrayLike,
    model_value: npt.ArrayLike,
) -> Estimate:
    """SNDR, mean(v) + sum(w (r - q)) / sum(w) (Kallus and Uehara 2019); arguments as of `doubly_robust`.

    Raises:
        NoSupport: every weight is 0.
    """
    w, r = _pair(weight, reward)
    q = columns.finite("model_reward", model_reward, shape=r.shape)
    v = columns.finite("model_value", model_value, shape=r.shape)
    correction = snips(w, r - q)
    return Estimate.from_terms(v + correction.terms, influence=v + correction.influence)


def replay(evaluation_action: npt.ArrayLike, logged_action: npt.ArrayLike, reward: npt.ArrayLike) -> Estimate:
    """Replay, the mean reward of rounds where both policies agree (Li et al. 2011).

    Unbiased only where the logging policy was uniform. Arguments of shape (n,); actions are compared for equality.

    Raises:
        NoSupport: the policies never agree.
    """
    r = columns.finite("reward", reward)
    wanted, taken = np.asarray(evaluation_action), np.asarray(logged_action)
    for name, actions in (("evaluation_action", wanted), ("logged_action", taken)):
        if actions.shape != r.shape:
            raise ValueError(f"{name}: expected shape {r.shape} as reward has, got {actions.shape}")
    agrees = wanted == taken
    if not agrees.any():
        raise NoSupport(f"evaluation_action: it never equals the logged action in {len(r)} rounds")
    return snips(agrees, r)


def expected_reward(evaluation: npt.ArrayLike, model: npt.ArrayLike) -> Float64:
    """V = sum_a pi_e(a) q(a), summed over the last axis.

    Args:
        evaluation: probabilities of shape (..., n_actions).
        model: q of the same shape.
    """
    pi = columns.probabilities("evaluation", evaluation, ndim=np.ndim(evaluation))
    q = columns.finite("model", model, shape=pi.shape)
    v: Float64 = np.einsum("...a,...a->...", pi, q)
    return v


def _pair(weight: npt.ArrayLike, reward: npt.ArrayLike) -> tuple[Float64, Float64]:
    r = columns.finite("reward", reward)
    return columns.weights("weight", weight, shape=r.shape), r


def _mean_weight(weight: Float64) -> float:
    mean = float(weight.mean())
    if mean == 0:
        raise NoSupport(
            f"weight: zero in all {len(weight)} rounds, the evaluation policy does nothing that was logged"
        )
    return mean

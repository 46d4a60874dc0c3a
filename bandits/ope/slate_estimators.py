"""Estimators for slates: standard, independent, reward-interaction, cascade-DR, pseudo-inverse.

Promise: the value of a slate is the sum of its slots' rewards; every estimator returns one term per slate whose
mean is the value. Columns are of shape (n_slates, longest); where slates are shorter, `length` says so and
whatever stands beyond a slate's length is ignored.

The three plain estimators share one formula, mean over slates of sum_l w_l r_l, and differ in the weight w_l:
of the whole slate, of the slot alone, or of the slots down to l. The self-normalised forms divide w_l by its
mean, slot by slot.
"""

import numpy as np
import numpy.typing as npt

from bandits.ope import columns
from bandits.ope.columns import Bool, Float64
from bandits.ope.estimators import Estimate
from bandits.ope.support import NoSupport


def prefix_weights(slot_weight: npt.ArrayLike) -> Float64:
    """Weights of the slots down to and including l, the running product over slots.

    Args:
        slot_weight: of shape (n, longest): pi_e / pi_0 of each slot's item *given the items above it*.
    """
    return np.cumprod(columns.weights("slot_weight", slot_weight, ndim=2), axis=1, dtype=np.float64)


def standard_ips(
    slate_weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    length: npt.ArrayLike | None = None,
    self_normalised: bool = False,
) -> Estimate:
    """SIPS: the weight of the whole slate on every slot; no assumption on clicks, the largest variance.

    Args:
        slate_weight: of shape (n,), pi_e(slate) / pi_0(slate).
        reward: of shape (n, longest).
        length: slots shown, integers of shape (n,) in 0..longest; None where all are shown.
        self_normalised: divide the weights by their mean (SNSIPS).
    """
    r = columns.finite("reward", reward, ndim=2)
    w = columns.weights("slate_weight", slate_weight, shape=r.shape[:1])
    return _slot_sum(np.broadcast_to(w[:, None], r.shape), r, _shown(length, r.shape), self_normalised)


def independent_ips(
    slot_weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    length: npt.ArrayLike | None = None,
    self_normalised: bool = False,
) -> Estimate:
    """IIPS (Li et al. 2018): right where a slot's reward depends on its own item alone.

    Args:
        slot_weight: of shape (n, longest), ratio of the *marginal* probabilities of the item at its slot.
        reward: of shape (n, longest).
        length: as of `standard_ips`.
        self_normalised: divide each slot's weights by their mean (SNIIPS).
    """
    r = columns.finite("reward", reward, ndim=2)
    w = columns.weights("slot_weight", slot_weight, shape=r.shape)
    return _slot_sum(w, r, _shown(length, r.shape), self_normalised)


def reward_interaction_ips(
    prefix_weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    length: npt.ArrayLike | None = None,
    self_normalised: bool = False,
) -> Estimate:
    """RIPS (McInerney et al. 2020): right where a slot's reward depends on the items down to it (cascade).

    Args:
        prefix_weight: of shape (n, longest), see `prefix_weights`.
        reward: of shape (n, longest).
        length: as of `standard_ips`.
        self_normalised: divide each slot's weights by their mean (SNRIPS).
    """
    r = columns.finite("reward", reward, ndim=2)
    w = columns.weights("prefix_weight", prefix_weight, shape=r.shape)
    return _slot_sum(w, r, _shown(length, r.shape), self_normalised)


def cascade_dr(
    prefix_weight: npt.ArrayLike,
    reward: npt.ArrayLike,
    *,
    model_reward: npt.ArrayLike,
    model_value: npt.ArrayLike,
    length: npt.ArrayLike | None = None,
) -> Estimate:
    """Cascade doubly robust, sum_l w_{1:l} (r_l - q_l) + w_{1:l-1} v_l, w_{1:0} = 1 (Kiyohara et al. 2022).

    Args:
        prefix_weight: w_{1:l} of shape (n, longest).
        reward: of shape (n, longest).
        model_reward: q_l at the logged item, of shape (n, longest), at best the reward of slots l and below
            together; any q leaves the estimate unbiased.
        model_value: v_l = sum_a pi_e(a | items above l) q_l(a), of shape (n, longest).
        length: as of `standard_ips`.
    """
    r = columns.finite("reward", reward, ndim=2)
    w = columns.weights("prefix_weight", prefix_weight, shape=r.shape)
    q = columns.finite("model_reward", model_reward, shape=r.shape)
    v = columns.finite("model_value", model_value, shape=r.shape)
    above = np.concatenate([np.ones((len(w), 1)), w[:, :-1]], axis=1)
    terms = np.where(_shown(length, r.shape), w * (r - q) + above * v, 0.0).sum(axis=1)
    return Estimate.from_terms(terms)


def pseudo_inverse(
    slot_weight: npt.ArrayLike, slate_reward: npt.ArrayLike, *, length: npt.ArrayLike | None = None
) -> Estimate:
    """Pseudo-inverse estimator, mean((sum_k w_k - (K - 1)) r) (Swaminathan et al. 2017, example 4).

    Right where the reward of a slate is a sum over slots (unknown to the log) and the logging policy fills its
    slots independently. With one slot it is IPS. The combined weight may be negative.

    Args:
        slot_weight: of shape (n, longest), ratio of the marginal probabilities at each slot.
        slate_reward: one reward per slate, of shape (n,).
        length: as of `standard_ips`.
    """
    w = columns.weights("slot_weight", slot_weight, ndim=2)
    r = columns.finite("slate_reward", slate_reward, shape=w.shape[:1])
    shown = _shown(length, w.shape)
    return Estimate.from_terms((1.0 + np.where(shown, w - 1.0, 0.0).sum(axis=1)) * r)


def _slot_sum(w: Float64, r: Float64, shown: Bool, self_normalised: bool) -> Estimate:
    w, r = np.where(shown, w, 0.0), np.where(shown, r, 0.0)
    if not self_normalised:
        return Estimate.from_terms((w * r).sum(axis=1))
    share = shown.mean(axis=0)
    used = share > 0
    mean = np.divide(w.mean(axis=0), share, out=np.ones(len(share)), where=used)
    if (mean == 0).any():
        slot = int(np.argmax(mean == 0))
        raise NoSupport(f"weight: zero in all {len(w)} slates at position {slot}")
    scaled = w / mean
    terms = (scaled * r).sum(axis=1)
    slot_mean = np.divide((scaled * r).mean(axis=0), share, out=np.zeros(len(share)), where=used)
    noise = (scaled * (r - slot_mean) + (shown - share) * slot_mean).sum(axis=1)
    return Estimate.from_terms(terms, influence=terms.mean() + noise)


def _shown(length: npt.ArrayLike | None, shape: tuple[int, ...]) -> Bool:
    if length is None:
        return np.ones(shape, dtype=np.bool_)
    slots = columns.finite("length", length, shape=shape[:1])
    if (slots < 0).any() or (slots > shape[1]).any() or (slots != np.floor(slots)).any():
        raise ValueError(f"length: expected integers from 0 to {shape[1]}, got {slots.min()} to {slots.max()}")
    return np.arange(shape[1]) < slots[:, None]

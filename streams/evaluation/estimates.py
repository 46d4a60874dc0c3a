"""Every estimator on one policy's answers.

Invariants: the unit is a slate, whose reward is the sum over its shown items; each estimate has one term a slate;
what the weights do not support is not estimated at all, and the reasons are told instead.

With slates of one item these are the textbook estimators. With longer ones IPS, SNIPS, DM, DR and their variants
use each slot's marginal probability: right where a slot's reward depends on its own item alone. `rips` and
`cascade_dr` allow it to depend on the items above too; they need propensities given those items.
"""

from dataclasses import dataclass, field

import numpy as np

from bandits.ope import (
    Estimate,
    Interval,
    NoSupport,
    Support,
    cascade_dr,
    clip_weights,
    confidence_interval,
    doubly_robust,
    importance_weights,
    independent_ips,
    measure_support,
    prefix_weights,
    reasons_to_refuse,
    reward_interaction_ips,
    switch_weights,
)
from bandits.sums import Float64
from streams.evaluation.ask import Answers
from streams.evaluation.reward_models import RewardModels
from streams.evaluation.slates import LoggedSlates

MAX_ANYTIME_SLOTS = 50
LARGE_SHARE = 0.02
_EVEN = 1e-9  # propensities that differ by less are one


@dataclass(frozen=True)
class Limits:
    """What weights are tamed at, and what is refused.

    Attributes:
        clip: largest weight of the clipped estimators.
        switch: above this weight Switch-DR trusts the model alone.
        min_effective_rounds: smallest effective sample size.
        alpha: 1 - coverage of intervals.
    """

    clip: float = 10.0
    switch: float = 10.0
    min_effective_rounds: float = 100.0
    alpha: float = 0.05


@dataclass(eq=False)
class Estimated:
    """What the log says of one policy.

    Attributes:
        support: of the weights of all shown items; None where there are no weights.
        refused: why nothing is estimated; empty if something is.
        estimates: by name.
        anytime: anytime-valid intervals, by name of the estimate.
        notes: by name, why an estimator is missing or what to know of it.
    """

    support: Support | None = None
    refused: tuple[str, ...] = ()
    estimates: dict[str, Estimate] = field(default_factory=dict)
    anytime: dict[str, Interval] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def estimate_logged(log: LoggedSlates, *, alpha: float) -> tuple[Estimate, Interval]:
    """What the logging policy earned on the same slates, with its anytime-valid interval."""
    reward = log.per_slate(log.reward)
    high = log.reward_high * (log.slots if log.whole else 1)
    anytime = confidence_interval(np.ones(len(log)), reward, alpha=alpha, reward_high=high, max_weight=1.0)
    return Estimate.from_terms(reward), anytime


def estimate_policy(log: LoggedSlates, answers: Answers, models: RewardModels, limits: Limits) -> Estimated:
    """Every estimator that the log supports."""
    weight = importance_weights(answers.probability, log.propensity)
    support = measure_support(weight)
    refused = reasons_to_refuse(support, min_effective_rounds=limits.min_effective_rounds)
    if refused:
        return Estimated(support, refused)
    result = Estimated(support, estimates=_by_slot(log, weight, answers, models, limits))
    result.anytime["ips"] = _anytime(log, weight, limits.alpha)
    result.notes |= _what_the_model_decides(weight, limits)
    if not _even(log.propensity):
        result.notes["replay"] = "biased: the logging policy was not uniform"
    if log.whole and log.slots > 1:
        _estimate_by_prefix(result, log, answers, models, limits)
    return result


def _what_the_model_decides(weight: Float64, limits: Limits) -> dict[str, str]:
    """Where intervals leave out an error that more data would not remove."""
    notes = {
        "dm": "the model alone: it knows item and position, not the user, and the interval leaves out its error"
    }
    clipped = 1.0 - clip_weights(weight, limits.clip).sum() / weight.sum()
    switched = 1.0 - switch_weights(weight, limits.switch).sum() / weight.sum()
    if clipped > LARGE_SHARE:
        text = f"{clipped:.0%} of the weight lies above the limit of {limits.clip:g} and is cut off"
        notes |= {"clipped_ips": f"too low: {text}", "clipped_dr": text}
    if switched > LARGE_SHARE:
        notes["switch_dr"] = (
            f"{switched:.0%} of the weight lies above {limits.switch:g}: there the model alone speaks"
        )
    return notes


def _by_slot(
    log: LoggedSlates, weight: Float64, answers: Answers, models: RewardModels, limits: Limits
) -> dict[str, Estimate]:
    reward, length = log.matrix(log.reward), _lengths(log)
    # A slot that was not logged has weight 1 and reward 0: it must not move the mean weight of its position.
    slot_weight = log.matrix(weight, fill=1.0)
    found = {
        "replay": _independent(log.matrix(answers.probability), reward, length, self_normalised=True),
        "ips": _independent(slot_weight, reward, length),
        "clipped_ips": _independent(clip_weights(slot_weight, limits.clip), reward, length),
        "snips": _independent(slot_weight, reward, length, self_normalised=True),
        "dm": Estimate.from_terms(log.per_slate(answers.model_value)),
    }
    tamed = {
        "dr": weight,
        "clipped_dr": clip_weights(weight, limits.clip),
        "switch_dr": switch_weights(weight, limits.switch),
    }
    predicted = models.at(log, models.reward)
    for name, w in tamed.items():
        rows = doubly_robust(w, log.reward, model_reward=predicted, model_value=answers.model_value)
        found[name] = Estimate.from_terms(log.per_slate(rows.terms))
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _independent(
    weight: Float64, reward: Float64, length: Float64, *, self_normalised: bool = False
) -> Estimate | None:
    try:
        return independent_ips(weight, reward, length=length, self_normalised=self_normalised)
    except NoSupport:
        return None  # all weights of one position are 0


def _estimate_by_prefix(
    result: Estimated, log: LoggedSlates, answers: Answers, models: RewardModels, limits: Limits
) -> None:
    reason = prefix_gap(log) or answers.no_prefix
    if not reason:
        rounds = np.arange(len(log))
        last = np.searchsorted(log.slate, rounds, side="right") - 1
        logged = _running_product(log)
        weight = answers.prefix / logged
        reason = "; ".join(
            reasons_to_refuse(measure_support(weight[last]), min_effective_rounds=limits.min_effective_rounds)
        )
    if reason:
        result.notes["rips"] = result.notes["cascade_dr"] = f"not estimated: {reason}"
        return
    length, reward, w = _lengths(log), log.matrix(log.reward), log.matrix(weight)
    above = np.concatenate([np.ones((len(log), 1)), log.matrix(answers.prefix)[:, :-1]], axis=1)
    value = log.matrix(answers.prefix_value)
    value = np.divide(value, above, out=np.zeros_like(value), where=above > 0)
    below = log.matrix(models.at(log, models.below))
    result.estimates["rips"] = reward_interaction_ips(w, reward, length=length)
    result.estimates["cascade_dr"] = cascade_dr(w, reward, model_reward=below, model_value=value, length=length)


def prefix_gap(log: LoggedSlates) -> str:
    """Why the log has no propensities of whole slates; empty if it has."""
    missing = int(np.count_nonzero(np.isnan(log.conditional)))
    if missing:
        share = missing / len(log.conditional)
        return f"{share:.1%} of shown items have no propensity given the items above them"
    if (log.position != np.arange(len(log.slate)) - np.searchsorted(log.slate, log.slate)).any():
        return "a slate has positions that were not logged"
    return ""


def _running_product(log: LoggedSlates) -> Float64:
    product = prefix_weights(log.matrix(log.conditional, fill=1.0))
    return product[log.slate, log.position]


def _anytime(log: LoggedSlates, weight: Float64, alpha: float) -> Interval:
    """Sum over slots of intervals that hold together: each slot has its share of alpha."""
    w, r = log.matrix(weight, fill=1.0), log.matrix(log.reward)
    slots = w.shape[1]
    if slots > MAX_ANYTIME_SLOTS:
        return Interval(0.0, slots * log.reward_high)
    bound = 1.0 / float(log.propensity.min()) if _even(log.propensity) else None
    parts = [
        confidence_interval(
            w[:, slot], r[:, slot], alpha=alpha / slots, reward_high=log.reward_high, max_weight=bound
        )
        for slot in range(slots)
    ]
    return Interval(sum(part.low for part in parts), sum(part.high for part in parts))


def _even(propensity: Float64) -> bool:
    return bool(propensity.max() - propensity.min() <= _EVEN)


def _lengths(log: LoggedSlates) -> Float64:
    """Slots of each slate, down to the last logged one, float64 of shape (n_slates,)."""
    if not log.whole:
        return np.ones(len(log))
    last = np.searchsorted(log.slate, np.arange(len(log)), side="right") - 1
    return log.position[last].astype(np.float64) + 1.0

"""Can this log say anything about that policy? Effective sample size, weights, support, and the refusal.

Promise: an estimate that rests on a handful of rounds, or on a policy that does what the log never did, is
refused with every reason that applies; the bounds are named constants that a caller may state otherwise.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.ope import columns

# With 100 effective rounds no single round can carry more than a tenth of the weight (share <= 1 / sqrt(ESS)).
MIN_EFFECTIVE_ROUNDS = 100.0
MIN_COVERED = 0.99
MAX_MEAN_GAP = 0.05
MEAN_STANDARD_ERRORS = 4.0


class NoSupport(ValueError):
    """The log cannot answer the question asked of it; the message says why."""


@dataclass(frozen=True)
class Support:
    """How much of a log bears on an evaluation policy.

    Attributes:
        rounds: number of logged rounds n.
        effective_rounds: (sum w)^2 / sum w^2 (Kong 1992), between 0 and n; n where all weights are equal.
        mean_weight: its expectation is the evaluation policy's mass on what the logging policy can do: 1 with full
            support and right propensities.
        mean_weight_error: standard error of `mean_weight`; too small where the weights are heavy-tailed.
        max_weight: the largest weight.
        covered: share of the evaluation policy's mass on actions that the log could have shown, or None where the
            log does not tell.
    """

    rounds: int
    effective_rounds: float
    mean_weight: float
    mean_weight_error: float
    max_weight: float
    covered: float | None = None

    @classmethod
    def from_sums(
        cls, *, rounds: int, weight: float, weight_squared: float, max_weight: float, covered: float | None = None
    ) -> "Support":
        """Support from n, sum w, sum w^2 and max w; NoSupport where there are no rounds."""
        if rounds == 0:
            raise NoSupport("rounds: expected at least one, got none")
        mean = weight / rounds
        variance = max(weight_squared / rounds - mean * mean, 0.0) * rounds / max(rounds - 1, 1)
        return cls(
            rounds=rounds,
            effective_rounds=weight * weight / weight_squared if weight_squared > 0 else 0.0,
            mean_weight=mean,
            mean_weight_error=float(np.sqrt(variance / rounds)),
            max_weight=max_weight,
            covered=covered,
        )


def measure_support(weight: npt.ArrayLike, *, covered: float | None = None) -> Support:
    """Support behind importance weights of shape (n,), one per round or per slate.

    Examples:
        >>> measure_support([1.0, 1.0, 2.0]).effective_rounds
        2.6666666666666665
    """
    w = columns.weights("weight", weight)
    return Support.from_sums(
        rounds=len(w),
        weight=float(w.sum()),
        weight_squared=float(np.square(w).sum()),
        max_weight=float(w.max()),
        covered=covered,
    )


def share_covered(evaluation: npt.ArrayLike, logged: npt.ArrayLike) -> float:
    """Share of the evaluation policy's mass on actions that the logging policy can take.

    Args:
        evaluation: probabilities of shape (n, n_actions), rows summing to 1.
        logged: of the same shape; probabilities, or how often each action was seen: only zero or not matters.

    Examples:
        >>> share_covered([[0.5, 0.5], [1.0, 0.0]], [[0.9, 0.1], [0.0, 1.0]])
        0.5
    """
    target = columns.probabilities("evaluation", evaluation, ndim=2)
    sums = target.sum(axis=1)
    if not np.allclose(sums, 1.0, atol=1e-6):
        worst = int(np.argmax(np.abs(sums - 1)))
        raise ValueError(f"evaluation: expected rows that sum to 1, got {sums[worst]} at {worst}")
    possible = columns.weights("logged", logged, shape=target.shape) > 0
    return float(np.where(possible, target, 0.0).sum() / sums.sum())


def reasons_to_refuse(
    support: Support,
    *,
    min_effective_rounds: float = MIN_EFFECTIVE_ROUNDS,
    min_covered: float = MIN_COVERED,
    max_mean_gap: float = MAX_MEAN_GAP,
) -> tuple[str, ...]:
    """Why an estimate with this support would mislead; empty where it would not.

    Args:
        support: what `measure_support` found.
        min_effective_rounds: smallest effective sample size accepted.
        min_covered: smallest share of the evaluation policy's mass that the log must cover.
        max_mean_gap: largest |mean weight - 1| accepted beyond four standard errors of that mean.
    """
    reasons = []
    if support.effective_rounds < min_effective_rounds:
        reasons.append(
            f"effective sample size {support.effective_rounds:.1f} of {support.rounds} rounds, expected at least "
            f"{min_effective_rounds:g}; the largest weight, {support.max_weight:.6g}, outweighs the rest"
        )
    if support.covered is not None and support.covered < min_covered:
        reasons.append(
            f"the log covers {support.covered:.2%} of what the evaluation policy does, expected at least "
            f"{min_covered:.2%}"
        )
    noise = MEAN_STANDARD_ERRORS * support.mean_weight_error
    if abs(support.mean_weight - 1) > max_mean_gap + noise:
        missing = "the evaluation policy acts where the log has no support"
        cause = missing if support.mean_weight < 1 else "the logged propensities are too small"
        reasons.append(
            f"mean weight {support.mean_weight:.4g} +- {support.mean_weight_error:.2g}, expected 1: {cause}, "
            "or they are not those that the log was made with"
        )
    return tuple(reasons)


def require_support(
    support: Support,
    *,
    min_effective_rounds: float = MIN_EFFECTIVE_ROUNDS,
    min_covered: float = MIN_COVERED,
    max_mean_gap: float = MAX_MEAN_GAP,
) -> None:
    """Raise NoSupport with every reason of `reasons_to_refuse`, if there is any."""
    reasons = reasons_to_refuse(
        support,
        min_effective_rounds=min_effective_rounds,
        min_covered=min_covered,
        max_mean_gap=max_mean_gap,
    )
    if reasons:
        raise NoSupport("; ".join(reasons))

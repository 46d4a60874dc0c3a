"""How candidates are scored: pure functions over the named sums of one context.

Invariants: no reply holds NaN; `mean` is finite; `width` and `score` are finite or +inf (an unseen edge); rows with
equal sums get equal bits wherever they stand, so that ties are ties; a draw depends on seed and item only.

The sums are those that `bandits.sums` holds: each is 0 or from 2^-30 to 2^33, and d > 0 exactly where a > 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from bandits.draws import (
    BETA,
    COARSE_REDRAWS,
    COARSE_ROOTS,
    OPTIMISM,
    OPTIMISM_REDRAWS,
    REDRAWS,
    THOMPSON,
    bits,
    coarse_bits,
    coarse_normals,
    normals,
    uniforms,
)
from bandits.hashing import UInt64
from bandits.policy_settings import Estimator, PolicySettings, Unseen, describe

__all__ = [
    "DRAWN_MODES",
    "MODES",
    "CandidateSums",
    "Estimator",
    "PolicySettings",
    "Scores",
    "Unseen",
    "describe",
    "estimate",
    "redraw",
    "score",
]

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_TINY = np.finfo(np.float64).tiny

# Of `randomized_ucb`: the share of its optimism that is not drawn, and the bounds of a rate behind a variance, the
# lowest as a share of the pooled mean.
STEADY = 0.6
LOWEST_RATE, HIGHEST_RATE = 0.02, 0.97


@dataclass(frozen=True, eq=False)
class CandidateSums:
    """Sums of n candidates over the K clusters of one context, in natural units.

    Attributes:
        weights: float64 of shape (K,), w of the context, 0 <= w <= 1.
        edge: bool of shape (n, K), True where the graph has the edge.
        a: float64 of shape (n, K), sum of x over impressions; 0 where there is no edge.
        d: float64 of shape (n, K), sum of x^2 over impressions (Eq. 8, without the prior).
        b: float64 of shape (n, K), sum of x * reward (Eq. 9).
        n: float64 of shape (n,), impressions of the item.
        s: float64 of shape (n,), rewards of the item.
        keys: uint64 of shape (n,), what the item's random draws are keyed by.
    """

    weights: Float64
    edge: Bool
    a: Float64
    d: Float64
    b: Float64
    n: Float64
    s: Float64
    keys: UInt64


@dataclass(frozen=True, eq=False)
class Scores:
    """What candidates are ranked by, estimated mean reward, and width: float64 of shape (n,) each."""

    score: Float64
    mean: Float64
    width: Float64


def score(mode: str, sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Score candidates by a mode of `MODES`.

    Args:
        mode: name of the mode.
        sums: of the candidates.
        settings: of the policy.
        seed: 0 <= seed < 2^64; equal seeds give equal Thompson draws for an item.

    Raises:
        ValueError: there is no such mode.
    """
    return _mode(mode)(sums, settings, seed)


def redraw(mode: str, sums: CandidateSums, settings: PolicySettings, seed: int, count: int) -> Float64:
    """Scores under `count` fresh draws of a mode of `DRAWN_MODES`, of shape (count, n), for `estimate_propensity`.

    Independent of the draws that `score` makes under the same seed.

    Raises:
        ValueError: the mode draws nothing.
    """
    if mode == "thompson":
        mean, width, unseen = estimate(sums, settings)
        if not settings.thompson_scale:
            return np.tile(mean, (count, 1))
        drawn = coarse_normals(seed, COARSE_REDRAWS, sums.keys, count)
        return _shift(mean, width, unseen, settings.thompson_scale * drawn)
    if mode == "beta_thompson":
        a, b = _beta_posterior(sums, settings)
        generator = np.random.Generator(np.random.PCG64([seed, REDRAWS]))
        return generator.beta(a, b, (count, len(a)))
    if mode == "randomized_ucb":
        mean, width = estimate_centred(sums, settings)
        drawn = optimism_at(coarse_bits(seed, OPTIMISM_REDRAWS, sums.keys, count))
        return mean + settings.optimism * drawn * width
    raise ValueError(f"mode: expected one of {tuple(sorted(DRAWN_MODES))}, got {mode!r}")


def estimate(sums: CandidateSums, settings: PolicySettings) -> tuple[Float64, Float64, Bool]:
    """Mean and width over the seen edges, and which items have an unseen edge; of shape (n,) each.

    mean = sum of w * theta, width = sqrt(sum of w^2 / d) over the clusters that are edges (Eq. 7). An edge with
    nothing to go by (d = 0 and no prior) has theta = prior_mean and adds nothing to this width.
    """
    w, strength = sums.weights, settings.prior_strength
    learned = sums.b + settings.prior_mean * strength if strength else sums.b
    inverse = _inverse(sums.edge, sums.d, strength)
    divisor = inverse if settings.estimator == "diagonal" else _inverse(sums.edge, sums.a, strength)
    mean = weighted_sum(learned * divisor, w)
    width = np.sqrt(weighted_sum(inverse, w * w))
    unknown = sums.edge & (sums.d == 0)
    if not unknown.any():
        return mean, width, np.zeros(len(mean), np.bool_)
    blank = weighted_sum(unknown, w)
    if not strength and settings.prior_mean:
        mean += settings.prior_mean * blank
    return mean, width, blank > 0 if settings.unseen == "infinite" else np.zeros(len(blank), np.bool_)


def weighted_sum(values: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Float64:
    """Sum over the last axis of values * weights, added from the first to the last.

    A dot product of a library adds in an order of its own, which compiled loops could not repeat bit for bit.

    Args:
        values: of shape (n, K), K >= 1.
        weights: of shape (K,).
    """
    total: Float64 = np.add.accumulate(values * weights, axis=1)[:, -1]
    return total


def _inverse(edge: Bool, total: Float64, strength: float) -> Float64:
    """1 / (strength + total) on edges, 0 elsewhere and where the denominator is 0."""
    if strength:
        return edge.astype(np.float64) / (total + strength)
    # Numerators as floats and a divisor that is never 0: a masked division takes twice as long.
    return (total > 0).astype(np.float64) / np.maximum(total, _TINY)


def _shift(mean: Float64, width: Float64, unseen: Bool, factor: Float64 | float) -> Float64:
    """Mean + factor * width, +inf for items with an unseen edge."""
    shifted: Float64 = mean + factor * width
    shifted[..., unseen] = np.inf
    return shifted


def _bounded(width: Float64, unseen: Bool) -> Float64:
    return np.where(unseen, np.inf, width)


def exploit(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Score = mean; also what `epsilon_greedy` ranks by."""
    mean, width, unseen = estimate(sums, settings)
    return Scores(mean, mean, _bounded(width, unseen))


def ucb(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Diag-LinUCB (Eq. 7): mean + alpha * width, infinite with an unseen edge unless alpha is 0."""
    mean, width, unseen = estimate(sums, settings)
    upper = _shift(mean, width, unseen, settings.alpha) if settings.alpha else mean
    return Scores(upper, mean, _bounded(width, unseen))


def thompson(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Gaussian Thompson twin of `ucb`: mean + v * width * N(0, 1), infinite with an unseen edge unless v is 0."""
    mean, width, unseen = estimate(sums, settings)
    if not settings.thompson_scale:
        return Scores(mean, mean, _bounded(width, unseen))
    drawn = normals(seed, THOMPSON, sums.keys)
    sampled = _shift(mean, width, unseen, settings.thompson_scale * drawn)
    return Scores(sampled, mean, _bounded(width, unseen))


def beta_thompson(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Context-free Thompson: a draw of Beta(a0 + s, b0 + n - s) per item, by inversion of a keyed uniform.

    Mean and width are the posterior's mean and standard deviation.
    """
    a, b = _beta_posterior(sums, settings)
    total = a + b
    mean = a / total
    sampled = betaincinv(a, b, uniforms(seed, BETA, sums.keys))
    return Scores(sampled, mean, np.sqrt(mean * (b / total) / (total + 1)))


def _beta_posterior(sums: CandidateSums, settings: PolicySettings) -> tuple[Float64, Float64]:
    a0, b0 = settings.beta_prior
    # With a reward cap above 1 an item may have earned more than it was shown; that is no negative failure.
    return a0 + sums.s, b0 + np.maximum(sums.n - sums.s, 0.0)


def uniform(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """All scores 0: one group of ties, which the slate picker orders at random."""
    mean, width, unseen = estimate(sums, settings)
    return Scores(np.zeros(len(mean)), mean, _bounded(width, unseen))


def randomized_ucb(sums: CandidateSums, settings: PolicySettings, seed: int) -> Scores:
    """Randomised UCB on centred means: mean + optimism * width * Z, Z = 0.6 + 0.4 sqrt(E), E ~ Exp(1) an item.

    Mostly steady optimism, as of `ucb`, with a little noise: a Gaussian draw for each of many candidates explores
    more the more there are, and a bound alone repeats itself where feedback is late (Vaswani et al., Old Dog Learns
    New Tricks: Randomized UCB for Bandit Problems, AISTATS 2020, here with a draw for each item).
    """
    mean, width = estimate_centred(sums, settings)
    if not settings.optimism:
        return Scores(mean, mean, width)
    drawn = optimism_at(bits(seed, OPTIMISM, sums.keys) >> np.uint64(48))
    return Scores(mean + settings.optimism * drawn * width, mean, width)


def estimate_centred(sums: CandidateSums, settings: PolicySettings) -> tuple[Float64, Float64]:
    """Mean and width of edges that are believed to be as their item until they show otherwise; of shape (n,) each.

    With the pooled mean m, m_j = (s + item_strength) / (n + item_strength / m) is the item's own. An edge that was
    not shown is believed to be halfway between both; strength k = edge_strength / m,

        theta    = m_j + (b - a m_j + k (m - m_j) / 2) / (d + k)
        variance = theta (1 - theta) / (d + k)

    mean = sum of w theta, width = sqrt(sum of w^2 variance). What is learned of an edge is b - a m_j, the sum of
    x (r - m_j): Diag-LinUCB (Eq. 8-9) on what the item's mean does not explain, so that clusters that are shown
    together share the mean rather than count it twice. Strengths are in rewards, so that nothing depends on how
    frequent clicks are. The pooled mean is what is shown by now, better than most items: new edges look promising.
    """
    m = settings.pooled_mean
    of_item = (sums.s + settings.item_strength) / (sums.n + settings.item_strength / m)
    towards = 0.5 * settings.edge_strength * (1.0 - of_item / m)
    inverse = sums.edge / (sums.d + settings.edge_strength / m)
    theta = (sums.b - sums.a * of_item[:, None] + towards[:, None]) * inverse + sums.edge * of_item[:, None]
    rate = np.clip(theta, LOWEST_RATE * m, HIGHEST_RATE)
    w = sums.weights
    return weighted_sum(theta, w), np.sqrt(weighted_sum(rate * (1.0 - rate) * inverse, w * w))


def optimism_at(draws: UInt64) -> Float64:
    """Z of `randomized_ucb` at draws of 16 bits."""
    z: Float64 = STEADY + (1.0 - STEADY) * COARSE_ROOTS[draws]
    return z


Mode = Callable[[CandidateSums, PolicySettings, int], Scores]

MODES: dict[str, Mode] = {
    "exploit": exploit,
    "ucb": ucb,
    "thompson": thompson,
    "beta_thompson": beta_thompson,
    "epsilon_greedy": exploit,
    "uniform": uniform,
    "randomized_ucb": randomized_ucb,
}
DRAWN_MODES = frozenset({"thompson", "beta_thompson", "randomized_ucb"})  # whose scores are random


def _mode(mode: str) -> Mode:
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {tuple(MODES)}, got {mode!r}")
    return MODES[mode]

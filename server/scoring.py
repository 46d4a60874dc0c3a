"""From the sums of candidates to a slate of finite numbers: pure functions.

Invariants: every number that leaves is finite (I6): an unseen edge counts as `SENT_INFINITY`; scores depend on the
sums, the settings and the seed alone, so that the same three give the same slate again (I12).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bandits.context import Context
from bandits.drawn_propensity import propensity_over_draws
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Int32
from bandits.hashing import UInt64
from bandits.life_cycle import FIRST_POOL, IN_LANE, Bounds, has_lane, settled
from bandits.policies import (
    DRAWN_MODES,
    MODES,
    Bool,
    CandidateSums,
    Float64,
    PolicySettings,
    Scores,
    redraw,
    score,
)
from bandits.reserved_slots import Pools, ReservedSlate, pick_reserved, placement_reserved
from bandits.slates import Int64, beyond_means, pick
from server.limits import MAX_REDRAWN_SCORES, SENT_INFINITY

if TYPE_CHECKING:  # Numba takes half a second to import: only who fills slates with it pays
    from bandits.slates_numba import CompiledPolicy, CompiledSlates


@dataclass(frozen=True)
class SlateRules:
    """How the server scores and fills slates.

    Attributes:
        policy: settings of all modes.
        top_m: each slate starts with a uniform permutation of its best so many.
        explore_share: probability of a slot being drawn from all candidates.
        propensity_draws: redraws that a Thompson propensity is estimated from.
    """

    policy: PolicySettings
    top_m: int
    explore_share: float
    propensity_draws: int

    def share_of(self, mode: str) -> float:
        """The exploration share of a mode."""
        return self.policy.epsilon if mode == "epsilon_greedy" else self.explore_share

    def draws_for(self, candidates: int) -> int:
        """Redraws behind an estimated propensity of a slate of so many candidates, 1 or more."""
        return max(1, min(self.propensity_draws, MAX_REDRAWN_SCORES // max(1, candidates)))

    @cached_property
    def compiled(self) -> "dict[str, CompiledPolicy]":
        """The modes that have compiled loops, as these take them."""
        from bandits.slates_numba import compiled_policy

        made = {
            mode: compiled_policy(
                mode,
                self.policy,
                top_m=self.top_m,
                explore_share=self.share_of(mode),
                largest=SENT_INFINITY,
            )
            for mode in MODES
        }
        return {mode: policy for mode, policy in made.items() if policy is not None}


@dataclass(frozen=True, eq=False)
class FilledSlate:
    """A slate of S items, top first.

    Attributes:
        chosen: int64 of shape (S,), indices of candidates.
        score, mean, width: float64 of shape (S,), finite.
        propensity: float64 of shape (S,), 0 < p <= 1.
        explored: bool of shape (S,): slots that were drawn, and items that exploit would not have shown.
        estimated: True if the propensities are Monte Carlo estimates.
        exploring: how many of the items are shown for what is not known of them, those that were ranked by an
            optimistic or drawn score included; None = not counted.
        first: slots that went to items that are owed their first impressions.
    """

    chosen: Int64
    score: Float64
    mean: Float64
    width: Float64
    propensity: Float64
    explored: Bool
    estimated: bool
    exploring: int | None = None
    first: int = 0


def fill_slate(
    sums: CandidateSums,
    *,
    mode: str,
    slate_size: int,
    seed: int,
    rules: SlateRules,
    bounds: Bounds | None = None,
    compiles: bool = False,
) -> FilledSlate:
    """Score candidates and pick a slate of them.

    Args:
        sums: of the candidates.
        mode: name of the mode.
        slate_size: 1 or more; the slate is shorter if there are fewer candidates.
        seed: 0 <= seed < 2^64.
        rules: how.
        bounds: who may be explored; None = everybody.
        compiles: whether slates under bounds are picked by compiled loops, where the mode has them.
    """
    scores = score(mode, sums, rules.policy, seed)
    if bounds is not None:
        policy = rules.compiled.get(mode) if compiles else None
        return _fill_bounded(sums, scores, bounds, policy, mode=mode, slate_size=slate_size, seed=seed, rules=rules)
    explore_share = rules.share_of(mode)
    slate = pick(
        scores.score,
        keys=sums.keys,
        slate_size=slate_size,
        top_m=rules.top_m,
        explore_share=explore_share,
        seed=seed,
    )
    chosen, propensity = slate.chosen, slate.propensity
    estimated = mode in DRAWN_MODES
    if estimated and len(chosen):
        propensity = propensity_over_draws(
            slate,
            scores,
            sums,
            rules.policy,
            mode=mode,
            seed=seed,
            draws=rules.draws_for(len(sums.keys)),
            top_m=rules.top_m,
            explore_share=explore_share,
        )
    explored = _explored(mode, scores, chosen, slate.explored)
    return _filled(scores, chosen, propensity, explored, estimated=estimated)


def _explored(mode: str, scores: Scores, chosen: Int64, drawn: Bool) -> Bool:
    """Slots that were drawn, and items that are there although exploit would have shown others."""
    return drawn | beyond_means(scores.mean, chosen) if has_lane(mode) else drawn


def _fill_bounded(
    sums: CandidateSums,
    scores: Scores,
    bounds: Bounds,
    policy: "CompiledPolicy | None",
    *,
    mode: str,
    slate_size: int,
    seed: int,
    rules: SlateRules,
) -> FilledSlate:
    states = bounds.states(sums, scores.width)
    pools = bounds.pools(states, rules.share_of(mode))
    if bounds.rules.closes_lane:
        scores = settled(mode, scores, states)
    draws = rules.draws_for(len(sums.keys))
    if policy is not None and len(sums.keys):
        spread = np.where(states == IN_LANE, scores.width, 0.0)
        slate = _picked(scores, spread, sums.keys, pools, policy, slate_size=slate_size, seed=seed, redraws=draws)
    else:
        slate = pick_reserved(
            scores.score, keys=sums.keys, slate_size=slate_size, top_m=rules.top_m, pools=pools, seed=seed
        )
        if mode in DRAWN_MODES and len(slate.chosen):
            redraws = np.where(states == IN_LANE, redraw(mode, sums, rules.policy, seed, draws), scores.mean)
            placed = placement_reserved(redraws, slate.chosen, top_m=rules.top_m, pools=pools)
            slate = replace(slate, propensity=(slate.propensity + placed.sum(axis=0)) / (draws + 1))
    explored = slate.drawn > 0
    exploring = explored | (states[slate.chosen] == IN_LANE) if has_lane(mode) else explored
    return replace(
        _filled(scores, slate.chosen, slate.propensity, explored, estimated=mode in DRAWN_MODES),
        exploring=int(np.count_nonzero(exploring)),
        first=int(np.count_nonzero(slate.drawn == FIRST_POOL)),
    )


def _picked(
    scores: Scores,
    spread: Float64,
    keys: UInt64,
    pools: Pools,
    policy: "CompiledPolicy",
    *,
    slate_size: int,
    seed: int,
    redraws: int,
) -> ReservedSlate:
    """As `pick_reserved` and the redraws of its scores by `spread`, in one compiled call."""
    from bandits.numba_reserved import fill_reserved

    n = len(keys)
    chosen, propensity, drawn = fill_reserved(
        np.ascontiguousarray(scores.score),
        np.ascontiguousarray(scores.mean),
        spread,
        np.ascontiguousarray(keys),
        pools.of,
        np.array(pools.shares),
        policy.row,
        COARSE_QUANTILES,
        np.uint64(seed),
        min(slate_size, n),
        min(policy.top_m, n),
        redraws,
    )
    return ReservedSlate(chosen, propensity, drawn)


def _filled(scores: Scores, chosen: Int64, propensity: Float64, explored: Bool, *, estimated: bool) -> FilledSlate:
    return FilledSlate(
        chosen=chosen,
        score=finite(scores.score[chosen]),
        mean=scores.mean[chosen],
        width=finite(scores.width[chosen]),
        propensity=propensity,
        explored=explored,
        estimated=estimated,
    )


def fill_compiled(
    slates: "CompiledSlates",
    items: Int32,
    context: Context,
    policy: "CompiledPolicy",
    *,
    slate_size: int,
    seed: int,
    redraws: int,
) -> FilledSlate:
    """As `fill_slate` over the gathered sums, bit for bit, in one compiled call.

    Args:
        slates: of the graph and its sums.
        items: int32 of shape (n,), the candidates' numbers.
        context: the resolved user.
        policy: of `SlateRules.compiled`.
        slate_size: 1 or more.
        seed: 0 <= seed < 2^64.
        redraws: behind an estimated propensity.
    """
    chosen, (score_, mean, width, propensity), explored = slates.fill(
        items, context, policy, slate_size=slate_size, seed=seed, redraws=redraws
    )
    return FilledSlate(chosen, score_, mean, width, propensity, explored, policy.estimated)


@dataclass(frozen=True, eq=False)
class Explanation:
    """How the score of one candidate comes about.

    Attributes:
        score, mean, width: as they were sent with the slate.
        edge_mean: float64 of shape (K,), the part of each cluster in the mean; they sum to it.
        edge_variance: float64 of shape (K,), the part of each cluster in the squared width; finite.
    """

    score: float
    mean: float
    width: float
    edge_mean: Float64
    edge_variance: Float64


def explain(sums: CandidateSums, *, mode: str, seed: int, policy: PolicySettings) -> Explanation:
    """Explain the score of the only candidate in `sums`."""
    whole = _finite_scores(score(mode, sums, policy, seed))
    # One row a cluster, each with that cluster's edge alone: the mean and the squared width are sums over edges, so
    # the policy itself says what each part is.
    k = len(sums.weights)
    alone = np.eye(k, dtype=np.bool_) & sums.edge
    parts = CandidateSums(
        weights=sums.weights,
        edge=alone,
        a=np.where(alone, sums.a, 0.0),
        d=np.where(alone, sums.d, 0.0),
        b=np.where(alone, sums.b, 0.0),
        n=np.repeat(sums.n, k),
        s=np.repeat(sums.s, k),
        keys=np.repeat(sums.keys, k),
    )
    part = score(mode if mode == "randomized_ucb" else "exploit", parts, policy, seed)
    return Explanation(
        score=float(whole.score[0]),
        mean=float(whole.mean[0]),
        width=float(whole.width[0]),
        edge_mean=part.mean,
        edge_variance=finite(part.width**2),
    )


def finite(values: Float64) -> Float64:
    """Values within +-`SENT_INFINITY`."""
    return np.clip(values, -SENT_INFINITY, SENT_INFINITY)


def _finite_scores(scores: Scores) -> Scores:
    return Scores(finite(scores.score), scores.mean, finite(scores.width))

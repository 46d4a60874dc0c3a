"""What a shadow policy would have shown: the server's own policy with some settings replaced.

Invariants: what a shadow does not set is as it is served, priors fitted meanwhile included; probabilities are exact
where scores are not drawn, and unbiased estimates where they are, from draws that nothing else is made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.life_cycle import IN_LANE, Bounds, settled
from bandits.policies import DRAWN_MODES, CandidateSums, redraw, score
from bandits.reserved_slots import placement_reserved
from bandits.slate_propensity import placement
from server.scoring import SlateRules

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShadowPolicy:
    """A policy that is only looked at.

    Attributes:
        name: what it is called in metrics.
        mode: name of the mode.
        policy: fields of `PolicySettings` that differ from the served ones.
        slate: fields of `SlateRules` that differ.
    """

    name: str
    mode: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    slate: Mapping[str, Any] = field(default_factory=dict)

    def rules(self, served: SlateRules) -> SlateRules:
        """Its rules, given those in force."""
        return replace(served, policy=replace(served.policy, **self.policy), **self.slate)

    def probabilities(
        self,
        sums: CandidateSums,
        chosen: Int64,
        logged: Float64,
        *,
        mode: str,
        served: SlateRules,
        seed: int,
        bounds: Bounds | None = None,
    ) -> Float64:
        """P(the shadow puts this candidate at this slot), float64 of shape (S,).

        Args:
            sums: of the candidates.
            chosen: int64 of shape (S,), the slate that was served, as indices of candidates from the top.
            logged: float64 of shape (S,), the propensities that were told with it.
            mode: that served it.
            served: the rules that served it.
            seed: of the draws behind an estimate; it must not be one that the slate was drawn with, or numerator
                and denominator of a weight would err together.
            bounds: who could be explored when the slate was served, and who was owed impressions; the shadow is
                held to the same. Where the budget was spent, the shadow's is taken to have been spent too.
        """
        rules, own_mode = self.rules(served), self.mode
        if bounds is not None and bounds.spent:
            rules, served = replace(rules, explore_share=0.0), replace(served, explore_share=0.0)
            own_mode, bounds = "exploit", None
        if own_mode == mode and rules == served:
            return logged
        if bounds is not None:
            return self._bounded(sums, chosen, bounds, rules, seed=seed)
        if own_mode in DRAWN_MODES:
            scores = redraw(own_mode, sums, rules.policy, seed, rules.draws_for(len(sums.keys)))
        else:
            scores = score(own_mode, sums, rules.policy, seed).score[None]
        share = rules.share_of(own_mode)
        mean: Float64 = placement(scores, chosen, top_m=rules.top_m, explore_share=share).mean(axis=0)
        return mean

    def _bounded(
        self, sums: CandidateSums, chosen: Int64, bounds: Bounds, rules: SlateRules, *, seed: int
    ) -> Float64:
        """Where only some may be explored, and slots are reserved: as `server.scoring.fill_slate` fills them."""
        scores = score(self.mode, sums, rules.policy, seed)
        states = bounds.states(sums, scores.width)
        if self.mode in DRAWN_MODES:
            drawn = redraw(self.mode, sums, rules.policy, seed, rules.draws_for(len(sums.keys)))
            drawn = np.where(states == IN_LANE, drawn, scores.mean)
        else:
            ranked = settled(self.mode, scores, states) if bounds.rules.closes_lane else scores
            drawn = ranked.score[None]
        pools = bounds.pools(states, rules.share_of(self.mode))
        mean: Float64 = placement_reserved(drawn, chosen, top_m=rules.top_m, pools=pools).mean(axis=0)
        return mean

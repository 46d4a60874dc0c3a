"""What a shadow policy would have shown: the server's own policy with some settings replaced.

Invariants: what a shadow does not set is as it is served, priors fitted meanwhile included; probabilities are exact
where scores are not drawn, and unbiased estimates where they are, from draws that nothing else is made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.policies import DRAWN_MODES, CandidateSums, redraw, score
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
        """
        rules = self.rules(served)
        if self.mode == mode and rules == served:
            return logged
        if self.mode in DRAWN_MODES:
            scores = redraw(self.mode, sums, rules.policy, seed, rules.draws_for(len(sums.keys)))
        else:
            scores = score(self.mode, sums, rules.policy, seed).score[None]
        share = rules.share_of(self.mode)
        mean: Float64 = placement(scores, chosen, top_m=rules.top_m, explore_share=share).mean(axis=0)
        return mean

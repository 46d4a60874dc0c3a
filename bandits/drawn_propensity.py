"""Propensities where scores are drawn: over the picking of a slate and over the draws.

Invariants: 0 < propensity <= 1; bit for bit what `bandits.numba_propensity` gives within a compiled request. Where
a draw is one number of a known law for each candidate (`INTEGRATED`) and the slate is short enough, they are
integrated, within `ACCURACY` of the truth; else they are averaged over redraws.
"""

import sys
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.drawn_ranks import MOST_RANKS
from bandits.policies import CandidateSums, PolicySettings, Scores, redraw
from bandits.slates import Slate, estimate_propensity

Float64 = npt.NDArray[np.float64]

INTEGRATED = frozenset({"thompson", "randomized_ucb"})
ACCURACY = 0.03  # largest error of an integrated propensity; 0.001 is usual


def propensity_over_draws(
    slate: Slate,
    scores: Scores,
    sums: CandidateSums,
    settings: PolicySettings,
    *,
    mode: str,
    seed: int,
    draws: int,
    top_m: int = 1,
    explore_share: float = 0.0,
) -> Float64:
    """P(this item at this position) for a slate of a mode of `bandits.policies.DRAWN_MODES`, float64 of shape (S,).

    Args:
        slate: as `pick` filled it from the scores.
        scores: of `score`.
        sums: of the candidates.
        settings: of the policy.
        mode: name of the mode.
        seed: that the scores were drawn with.
        draws: how many redraws, where there have to be any; 1 or more.
        top_m: as it was for the slate.
        explore_share: as it was for the slate.
    """
    size, n = len(slate.chosen), len(scores.score)
    factor = settings.thompson_scale if mode == "thompson" else settings.optimism
    if mode in INTEGRATED and not factor:
        return slate.propensity  # nothing is drawn
    if size and mode in INTEGRATED and max(size, min(top_m, n)) <= MOST_RANKS:
        integrated, explored_tables = _compiled()
        propensity = slate.propensity.copy()
        tables = explored_tables(n, size, explore_share)
        how = (factor, mode == "thompson", slate.chosen, min(top_m, n), float(explore_share), *tables)
        integrated(np.ascontiguousarray(scores.mean), np.ascontiguousarray(scores.width), *how, propensity)
        return propensity
    redraws = redraw(mode, sums, settings, seed, draws)
    return estimate_propensity(slate, redraws, top_m=top_m, explore_share=explore_share)


def compile_integrals() -> None:
    """Compile what integrates, or read it from the cache on disk, so that no slate has to wait for it."""
    _compiled()


@cache
def _compiled() -> tuple[Any, Any]:
    # Numba takes half a second to import: only who needs it pays.
    from numba import njit

    from bandits import numba_integrated
    from bandits.numba_cache import fingerprint
    from bandits.numba_late import integrated_address
    from bandits.slates_numba import FILLING, explored_tables

    sources = fingerprint(*FILLING, sys.modules[__name__])

    @njit(cache=True)
    def integrated(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        numba_integrated.integrated_at(*arguments)

    return partial(integrated, integrated_address()), explored_tables

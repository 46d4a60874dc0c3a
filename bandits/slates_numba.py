"""Slates in one compiled call a request, for the modes that have compiled loops.

Invariants: a slate equals what `score`, `pick` and `estimate_propensity` make of the gathered sums, bit for bit; a
mode without compiled loops is said to have none, and whoever asks falls back to those functions, which stay the
definition.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits import (
    draws,
    numba_addresses,
    numba_draws,
    numba_kernels,
    numba_memory,
    numba_requests,
    numba_scores,
    numba_slates,
    policies,
    slate_propensity,
)
from bandits.context import Context
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Graph
from bandits.numba_addresses import addresses, row
from bandits.numba_cache import fingerprint
from bandits.numba_requests import fill_slate
from bandits.numba_scores import EXPLOIT, RANDOMIZED, THOMPSON_MODE, UCB, UNIFORM
from bandits.policies import DRAWN_MODES, PolicySettings
from bandits.slate_propensity import rank_table
from bandits.sums import Int32, Int64, Sums

Float64 = npt.NDArray[np.float64]

_CODES = {
    "exploit": EXPLOIT,
    "ucb": UCB,
    "thompson": THOMPSON_MODE,
    "epsilon_greedy": EXPLOIT,
    "uniform": UNIFORM,
    "randomized_ucb": RANDOMIZED,
}
_NO_TABLE = np.zeros((0, 0))

# All modules that filling a slate calls into, for the keys of cached functions.
FILLING = (
    *(numba_addresses, numba_draws, numba_kernels, numba_memory, numba_requests, numba_scores, numba_slates),
    *(draws, policies, slate_propensity),
)


def _entry(sources: int) -> Any:
    """`fill_slate` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def fill(view, items, clusters, weights, policy, quantiles, seed, size, top_m, share, redraws, head, band):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return fill_slate(
            view, items, clusters, weights, policy, quantiles, seed, size, top_m, share, redraws, head, band
        )

    return fill


_fill = _entry(fingerprint(*FILLING))


@dataclass(frozen=True, eq=False)
class CompiledPolicy:
    """A mode and its settings as compiled loops take them.

    Attributes:
        row: float64, `bandits.numba_scores.POLICY`.
        top_m: the first ranks that are permuted, 1 or more.
        explore_share: probability that a slot is explored.
        estimated: True if propensities are estimates.
    """

    row: Float64
    top_m: int
    explore_share: float
    estimated: bool


def compiled_policy(
    mode: str, settings: PolicySettings, *, top_m: int, explore_share: float, largest: float = np.inf
) -> CompiledPolicy | None:
    """What compiled loops need to know, or None where the mode has none.

    Args:
        mode: name of the mode.
        settings: of the policy.
        top_m: as `bandits.slates.pick` takes it.
        explore_share: as `bandits.slates.pick` takes it.
        largest: larger scores and widths are given as this.
    """
    if mode not in _CODES:
        return None
    columns = (
        _CODES[mode],
        settings.alpha,
        settings.thompson_scale,
        settings.prior_mean,
        settings.prior_strength,
        settings.estimator == "diagonal",
        settings.unseen == "infinite",
        largest,
        settings.optimism,
        settings.edge_strength,
        settings.item_strength,
        settings.pooled_mean,
    )
    return CompiledPolicy(np.array(columns, np.float64), top_m, explore_share, mode in DRAWN_MODES)


class CompiledSlates:
    """Fills slates from the sums of one graph, which it reads where they are.

    Args:
        graph: the graph.
        sums: written in place by others; who writes and who fills take turns.

    Attributes:
        graph: the graph.
        sums: the sums.
        view: row of `bandits.numba_scores.VIEW`.
    """

    def __init__(self, graph: Graph, sums: Sums) -> None:
        self.graph, self.sums = graph, sums
        self._held = (graph.item_ptr, graph.edge_cluster, sums.edge, sums.item, graph.item_hashes)
        self.view = row([*addresses(*self._held), graph.n_edges])

    def fill(
        self, items: Int32, context: Context, policy: CompiledPolicy, *, slate_size: int, seed: int, redraws: int
    ) -> tuple[Int64, Float64, npt.NDArray[np.bool_]]:
        """A slate of some candidates.

        Args:
            items: int32 of shape (n,), numbers within the graph, contiguous.
            context: the user.
            policy: how.
            slate_size: 0 = all candidates; the slate is shorter if there are fewer.
            seed: 0 <= seed < 2^64.
            redraws: behind an estimated propensity, 1 or more; as `bandits.policies.redraw` takes them.

        Returns:
            Indices of the chosen candidates, int64 of shape (S,); score, mean, width and propensity, float64 of
            shape (4, S); which slots were explored, bool of shape (S,).
        """
        n = len(items)
        if n == 0:
            return np.empty(0, np.int64), np.empty((4, 0)), np.empty(0, np.bool_)
        size = min(slate_size or n, n)
        head, band = explored_tables(n, size, policy.explore_share)
        filled: tuple[Any, Any, Any] = _fill(
            self.view,
            items,
            context.cluster_ids,
            context.weights,
            policy.row,
            COARSE_QUANTILES,
            np.uint64(seed),
            size,
            min(policy.top_m, n),
            policy.explore_share,
            redraws,
            head,
            band,
        )
        return filled


def explored_tables(n: int, size: int, share: float) -> tuple[Float64, Float64]:
    """Head and band of the rank table, empty where nothing is explored."""
    if not share:
        return _NO_TABLE, _NO_TABLE
    table = rank_table(n, size, share)
    return np.ascontiguousarray(table.head), np.ascontiguousarray(table.band)

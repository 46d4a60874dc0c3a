"""Slates in one compiled call a request, for the modes that have compiled loops.

Invariants: a slate equals what `score`, `pick` and `estimate_propensity` make of the gathered sums, bit for bit; a
mode without compiled loops is said to have none, and whoever asks falls back to those functions, which stay the
definition.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.context import Context
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Graph, build_graph
from bandits.numba_addresses import addresses, row
from bandits.numba_requests import fill_slate
from bandits.numba_scores import EXPLOIT, POLICY, RANDOMIZED, THOMPSON_MODE, UCB, UNIFORM
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
        filled: tuple[Any, Any, Any] = fill_slate(
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


def compile_loops() -> None:
    """Compile, or read from the cache on disk: the first caller must not wait for the compiler."""
    graph = build_graph(
        version="warm-up", centroids=[], n_clusters=1, item_ids=["item"], edge_item=[0], edge_cluster=[0]
    )
    policy = CompiledPolicy(np.zeros(len(POLICY)), top_m=1, explore_share=0.0, estimated=False)
    first = np.zeros(1, np.int32)
    slates = CompiledSlates(graph, Sums.zeros(graph))
    slates.fill(first, Context(first, np.ones(1)), policy, slate_size=1, seed=0, redraws=1)


def explored_tables(n: int, size: int, share: float) -> tuple[Float64, Float64]:
    """Head and band of the rank table, empty where nothing is explored."""
    if not share:
        return _NO_TABLE, _NO_TABLE
    table = rank_table(n, size, share)
    return np.ascontiguousarray(table.head), np.ascontiguousarray(table.band)

"""Slates in one compiled call a request, for the modes that have compiled loops.

Invariants: a slate equals what `score`, `pick` and `estimate_propensity` make of the gathered sums, bit for bit; a
mode without compiled loops is said to have none, and whoever asks falls back to those functions, which stay the
definition.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits import (
    drawn_ranks,
    draws,
    numba_addresses,
    numba_draws,
    numba_integrated,
    numba_kernels,
    numba_lanes,
    numba_memory,
    numba_propensity,
    numba_ranks,
    numba_requests,
    numba_retrieval,
    numba_scores,
    numba_serving_rows,
    numba_slates,
    policies,
    slate_propensity,
)
from bandits.context import Context
from bandits.drawn_ranks import MOST_RANKS
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Graph
from bandits.numba_addresses import addresses, row
from bandits.numba_cache import fingerprint
from bandits.numba_late import filling_address, integrated_address, picking_address
from bandits.numba_requests import fill_around, fill_slate_into
from bandits.numba_scores import EXPLOIT, RANDOMIZED, THOMPSON_MODE, UCB, UNIFORM
from bandits.policies import DRAWN_MODES, PolicySettings
from bandits.serving_rows_numba import ServingRows
from bandits.slate_propensity import rank_table
from bandits.sums import Int32, Int64, Sums

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_CODES = {
    "exploit": EXPLOIT,
    "ucb": UCB,
    "thompson": THOMPSON_MODE,
    "epsilon_greedy": EXPLOIT,
    "uniform": UNIFORM,
    "randomized_ucb": RANDOMIZED,
}
_NO_TABLE = np.zeros((0, 0))
_NO_ITEMS = np.empty(0, np.int32)

# All modules that filling a slate calls into, for the keys of cached functions.
FILLING = (
    *(numba_addresses, numba_draws, numba_integrated, numba_kernels, numba_lanes, numba_memory, numba_propensity),
    *(numba_ranks, numba_requests, numba_retrieval, numba_scores, numba_serving_rows, numba_slates),
    *(drawn_ranks, draws, policies, slate_propensity),
)


def _entry(sources: int) -> Any:
    """`fill_slate_into` and `fill_around` as they are called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def fill(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        fill_slate_into(*arguments)

    @njit(cache=True)
    def around(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return fill_around(*arguments)

    return fill, around


_fill, _fill_around = _entry(fingerprint(*FILLING))


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
    """Fills slates from the sums of one graph, which it reads where they are, or from rows that follow them.

    Args:
        graph: the graph.
        sums: written in place by others; who writes and who fills take turns.
        rows: of these sums; None = read the sums themselves.

    Attributes:
        graph: the graph.
        sums: the sums.
        view: row of `bandits.numba_scores.VIEW`.
    """

    def __init__(self, graph: Graph, sums: Sums, rows: ServingRows | None = None) -> None:
        self.graph, self.sums = graph, sums
        self._rows = rows
        self._place: _Around | None = None
        self._held = (graph.item_ptr, graph.edge_cluster, sums.edge, sums.item, graph.item_hashes)
        of_rows = [0, 0] if rows is None else addresses(rows.row_at, rows.lines)
        code = filling_address(), picking_address()
        self.view = row([*addresses(*self._held), graph.n_edges, integrated_address(), *of_rows, *code])

    @classmethod
    def following(cls, graph: Graph, sums: Sums) -> "CompiledSlates":
        """With rows where the graph can have them: whoever writes to the sums calls `follow` afterwards."""
        return cls(graph, sums, ServingRows.of(graph, sums))

    def follow(self, items: Int32) -> None:
        """Take over what was written to the sums of some items, int32 of shape (m,), contiguous."""
        if self._rows is not None:
            self._rows.follow(self.graph, self.sums, items)

    def fits(self, graph: Graph) -> bool:
        """Whether `extended` shares all memory with what it extends."""
        return self._rows is None or self._rows.fits(graph)

    def extended(self, graph: Graph, sums: Sums, *, in_place: bool) -> "CompiledSlates":
        """For an edit of the graph; `in_place` only if it `fits`, and if the sums were extended in place too."""
        rows = None if self._rows is None else self._rows.extended(graph, sums, in_place=in_place)
        return CompiledSlates(graph, sums, rows)

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
        slate = np.empty(size, np.int64), np.empty((4, size)), np.empty(size, np.bool_)
        _fill(
            self.view,
            items,
            context.cluster_ids,
            context.weights,
            policy.row,
            COARSE_QUANTILES,
            np.uint64(seed),
            min(policy.top_m, n),
            policy.explore_share,
            redraws,
            head,
            band,
            *slate,
        )
        return slate

    def fill_around(
        self, context: Context, policy: CompiledPolicy, *, slate_size: int, seed: int, draws: Callable[[int], int]
    ) -> tuple[Int64, Float64, Bool, int]:
        """A slate of the items around a user: as `fill` of `Graph.items_around`, in one pass over their edges.

        Args:
            context: the user.
            policy: how.
            slate_size: 1 or more.
            seed: 0 <= seed < 2^64.
            draws: how many redraws are behind an estimated propensity, by the number of candidates.

        Returns:
            Numbers of the chosen items, int64 of shape (S,); numbers and explored as of `fill`; how many candidates
            there were.
        """
        graph, held = self.graph, self._around()
        clusters = context.cluster_ids
        sizes = graph.cluster_ptr[clusters + 1] - graph.cluster_ptr[clusters]
        attached, attached_ends = _NO_ITEMS, np.zeros(len(clusters), np.int64)
        if graph.edits is not None:
            lists = [graph.edits.attached.get(cluster, _NO_ITEMS) for cluster in clusters.tolist()]
            attached, attached_ends = np.concatenate(lists), np.cumsum([len(items) for items in lists])
        room = int(sizes.sum()) + len(attached)

        def run(size: int, head: Float64, band: Float64, redraws: int) -> tuple[Int64, Float64, Bool, int]:
            filled: tuple[Any, Any, Any, int] = _fill_around(
                self.view,
                held.row,
                attached,
                attached_ends,
                clusters,
                context.weights,
                policy.row,
                COARSE_QUANTILES,
                np.uint64(seed),
                size,
                policy.top_m,
                policy.explore_share,
                redraws,
                head,
                band,
                held.place,
                room,
            )
            return filled

        redrawn = policy.estimated and max(slate_size, policy.top_m) > MOST_RANKS
        if not policy.explore_share and not redrawn:
            return run(slate_size, _NO_TABLE, _NO_TABLE, 1)
        # Tables and redraws depend on how many candidates there are, which is known once they are found.
        count = run(0, _NO_TABLE, _NO_TABLE, 1)[3]
        if count == 0:
            return run(0, _NO_TABLE, _NO_TABLE, 1)
        size = min(slate_size, count)
        return run(size, *explored_tables(count, size, policy.explore_share), draws(count))

    def _around(self) -> "_Around":
        if self._place is None:
            self._place = _Around.of(self.graph)
        return self._place


@dataclass(frozen=True, eq=False)
class _Around:
    """The other orientation of a graph, and a table with an entry for each item that is -1 between calls."""

    row: Int64
    place: Int32
    held: tuple[npt.NDArray[Any], ...]

    @classmethod
    def of(cls, graph: Graph) -> "_Around":
        held: list[npt.NDArray[Any]] = [graph.cluster_ptr, graph.cluster_item, graph.cluster_edge]
        numbers = addresses(*held)
        if graph.edits is None:
            numbers.append(0)
        else:
            held.append(np.ascontiguousarray(graph.edits.live))
            numbers += addresses(held[-1])
        return cls(row(numbers), np.full(graph.n_items, -1, np.int32), tuple(held))


def explored_tables(n: int, size: int, share: float) -> tuple[Float64, Float64]:
    """Head and band of the rank table, empty where nothing is explored."""
    if not share:
        return _NO_TABLE, _NO_TABLE
    table = rank_table(n, size, share)
    return np.ascontiguousarray(table.head), np.ascontiguousarray(table.band)

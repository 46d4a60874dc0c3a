"""The items around a user that may be in the slate: few of many, found without scoring the rest.

Invariant: a slate of the shortlist is the slate of all items around the user, bit for bit, propensities included.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits import (
    drawn_ranks,
    numba_addresses,
    numba_edge_lanes,
    numba_memory,
    numba_requests,
    numba_scores,
    numba_shortlist,
    policies,
)
from bandits.cluster_rows_numba import ClusterRows
from bandits.context import Context
from bandits.drawn_ranks import MOST_RANKS
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Bool, build_graph
from bandits.numba_addresses import addresses, row
from bandits.numba_cache import fingerprint
from bandits.numba_scores import EXPLOIT, RANDOMIZED, UCB
from bandits.numba_shortlist import NO_ROOM, fill_listed
from bandits.policies import PolicySettings
from bandits.slates_numba import CompiledPolicy, CompiledSlates, compiled_policy
from bandits.sums import Float64, Int64, Sums

MOST_DEPTH = MOST_RANKS  # ranks that matter; for longer slates all items are scored
FEWEST_EDGES = 256  # of the user's clusters; around fewer all items are scored as fast
_SHARE = 4  # of the items, one in so many may be listed
_REST = 31  # slates for which all items are scored, after a list was too long
_MODES = (EXPLOIT, UCB, RANDOMIZED)  # with Gaussian draws anybody may be near the slate
_NO_ITEMS, _NO_TABLE = np.empty(0, np.int32), np.zeros((0, 0))
_LEAST_ROOM = 1 << 14

_SOURCES = (
    *(drawn_ranks, numba_addresses, numba_edge_lanes, numba_memory, numba_requests, numba_scores),
    *(numba_shortlist, policies),
)


def _entry(sources: int) -> Any:
    @njit(cache=True)
    def entry(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return fill_listed(*arguments)

    return entry


_fill_listed = _entry(fingerprint(*_SOURCES))


class ShortlistedSlates:
    """Fills slates around users as `CompiledSlates.fill_around` does, of shortlists where that can be and pays.

    Args:
        slates: of the graph and its sums.
        rows: of them.

    Attributes:
        slates: fill slates of what is on a shortlist, and of all items where there is none.
    """

    def __init__(self, slates: CompiledSlates, rows: ClusterRows) -> None:
        self.slates = slates
        self._rows = rows
        self._near: Int64 | None = None
        self._found = _NO_ITEMS
        self._rest = 0

    def fill_around(
        self, context: Context, policy: CompiledPolicy, *, slate_size: int, seed: int, draws: Callable[[int], int]
    ) -> tuple[Int64, Float64, Bool, int]:
        """As of `CompiledSlates`."""
        wanted = 0 < slate_size <= MOST_DEPTH and policy.top_m <= MOST_DEPTH and not policy.explore_share
        if wanted and policy.row[0] in _MODES and self._rows.ready:
            filled = self._fill(context, policy, slate_size, seed)
            if filled is not None:
                return filled
        return self.slates.fill_around(context, policy, slate_size=slate_size, seed=seed, draws=draws)

    def _fill(
        self, context: Context, policy: CompiledPolicy, size: int, seed: int
    ) -> tuple[Int64, Float64, Bool, int] | None:
        """A slate of a shortlist; None where all items had better be scored."""
        if self._rest:
            self._rest -= 1
            return None
        graph, attached = self.slates.graph, _NO_ITEMS
        if graph.edits is not None:
            lists = [graph.edits.attached.get(cluster, _NO_ITEMS) for cluster in context.cluster_ids.tolist()]
            attached = np.concatenate(lists)
        slate = np.empty(size, np.int64), np.empty((4, size)), np.empty(size, np.bool_)
        near, kept, count = self._near, NO_ROOM, _LEAST_ROOM
        while kept == NO_ROOM:  # twice at most
            if near is None:
                near = self._make_room(count)
            kept, count = _fill_listed(
                near,
                self._found,
                self.slates.view,
                attached,
                context.cluster_ids,
                context.weights,
                policy.row,
                COARSE_QUANTILES,
                np.uint64(seed),
                policy.top_m,
                FEWEST_EDGES,
                _SHARE,
                _NO_TABLE,
                *slate,
            )
            if kept == NO_ROOM:
                near = None
        if kept * _SHARE > count:
            self._rest = _REST
            return None
        return None if kept < size else (*slate, count)

    def _make_room(self, needed: int) -> Int64:
        """Row `bandits.numba_shortlist.NEAR` with at least so much room."""
        graph, room = self.slates.graph, needed + needed // 2
        place = np.full(graph.n_items, -1, np.int32)
        if graph.edits is not None:
            place[~graph.edits.live] = 0
        self._found = np.empty(room, np.int32)
        self._held: list[npt.NDArray[Any]] = [
            *(graph.cluster_ptr, graph.cluster_item, self._rows.rows, place),
            *(np.empty(room, np.int32), self._found),
            *(np.zeros(4 * room, np.float32), np.empty(room, np.float32), np.empty(2 * room, np.float32)),
        ]
        self._near = row([*addresses(*self._held), room])
        return self._near


def compile_shortlist() -> None:
    """Compile what makes shortlists, or read it from the cache on disk."""
    graph = build_graph(
        version="warm-up", centroids=[], n_clusters=1, item_ids=["i"], edge_item=[0], edge_cluster=[0]
    )
    sums, rows = Sums.zeros(graph), ClusterRows(graph)
    while not rows.ready:
        rows.copy_more(sums.edge)
    rows.follow(graph.item_ptr, sums.edge, np.zeros(1, np.int32), np.ones((1, 3), np.int64))
    slates = ShortlistedSlates(CompiledSlates(graph, sums), rows)
    policy = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0)
    if policy is not None:
        slates._fill(Context(np.zeros(1, np.int32), np.ones(1)), policy, 1, 0)

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
    numba_scores,
    numba_shortlist,
    policies,
)
from bandits.cluster_rows import ClusterRows
from bandits.context import Context
from bandits.drawn_ranks import MOST_RANKS
from bandits.graph import build_graph
from bandits.numba_addresses import addresses, row
from bandits.numba_cache import fingerprint
from bandits.numba_edge_lanes import TOGETHER
from bandits.numba_memory import pointer
from bandits.numba_scores import EXPLOIT, RANDOMIZED, UCB
from bandits.numba_shortlist import shortlist
from bandits.policies import PolicySettings
from bandits.slates_numba import CompiledPolicy, CompiledSlates, compiled_policy
from bandits.sums import Float64, Int32, Int64, Sums

MOST_DEPTH = MOST_RANKS  # ranks that matter; for longer slates all items are scored
FEWEST_EDGES = 1_000  # of the user's clusters; around fewer all items are scored as fast
_SHARE = 4  # of the items, one in so many may be listed
_REST = 31  # slates for which all items are scored, after a list was too long
_MODES = (EXPLOIT, UCB, RANDOMIZED)  # with Gaussian draws anybody may be near the slate
_NO_ITEMS = np.empty(0, np.int32)

_SOURCES = (
    *(drawn_ranks, numba_addresses, numba_edge_lanes, numba_memory, numba_scores, numba_shortlist, policies),
)


def _entry(sources: int) -> Any:
    @njit(cache=True)
    def entry(near, view, attached, clusters, weights, policy, depth, size):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return shortlist(pointer(near), pointer(view), attached, clusters, weights, pointer(policy), depth, size)

    return entry


_shortlist = _entry(fingerprint(*_SOURCES))


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
        self._place: Int32 | None = None
        self._edges = -1
        self._row = np.empty(0, np.int64)
        self._rest = 0

    def fill_around(
        self, context: Context, policy: CompiledPolicy, *, slate_size: int, seed: int, draws: Callable[[int], int]
    ) -> tuple[Int64, Float64, npt.NDArray[np.bool_], int]:
        """As of `CompiledSlates`."""
        depth = max(slate_size, policy.top_m)
        wanted = 0 < depth <= MOST_DEPTH and not policy.explore_share and policy.row[0] in _MODES
        found = self._shortlist(context, policy, depth=depth, size=slate_size) if wanted else None
        if found is None:
            return self.slates.fill_around(context, policy, slate_size=slate_size, seed=seed, draws=draws)
        items, count = found
        chosen, numbers, explored = self.slates.fill(
            items, context, policy, slate_size=slate_size, seed=seed, redraws=1
        )
        return items[chosen].astype(np.int64), numbers, explored, count

    def _shortlist(
        self, context: Context, policy: CompiledPolicy, *, depth: int, size: int
    ) -> tuple[Int32, int] | None:
        """Who is on it, in memory that the next call writes to, and of how many; None where there is none."""
        graph, clusters = self.slates.graph, context.cluster_ids
        edges = int((graph.cluster_ptr[clusters + 1] - graph.cluster_ptr[clusters]).sum())
        if edges < FEWEST_EDGES or not self._rows.ready:
            return None
        if self._rest:
            self._rest -= 1
            return None
        attached = _NO_ITEMS
        if graph.edits is not None:
            lists = [graph.edits.attached.get(cluster, _NO_ITEMS) for cluster in clusters.tolist()]
            attached = np.concatenate(lists)
        kept, count = _shortlist(
            self._near(edges + len(attached) + TOGETHER * len(clusters)),
            self.slates.view,
            attached,
            clusters,
            context.weights,
            policy.row,
            depth,
            size,
        )
        if kept * _SHARE > count:
            self._rest = _REST
            return None
        return self._found[:kept], count

    def _near(self, edges: int) -> Int64:
        """Row `bandits.numba_shortlist.NEAR` with room for so many edges."""
        if edges <= self._edges:
            return self._row
        graph = self.slates.graph
        if self._place is None:
            self._place = np.full(graph.n_items, -1, np.int32)
            if graph.edits is not None:
                self._place[~graph.edits.live] = 0
        edges += edges // 2
        self._found = np.empty(edges + 1, np.int32)
        self._held: list[npt.NDArray[Any]] = [
            *(graph.cluster_ptr, graph.cluster_item, self._rows.rows, self._place),
            *(np.empty(edges, np.int32), self._found),
            np.zeros(4 * (edges + TOGETHER), np.float32),
            np.empty(edges + TOGETHER, np.float32),
            np.empty(2 * (edges + TOGETHER), np.float32),
        ]
        self._row = row([*addresses(*self._held), edges + TOGETHER])
        self._edges = edges
        return self._row


def compile_shortlist() -> None:
    """Compile what makes shortlists, or read it from the cache on disk."""
    graph = build_graph(
        version="warm-up", centroids=[], n_clusters=1, item_ids=["i"], edge_item=[0], edge_cluster=[0]
    )
    sums, rows = Sums.zeros(graph), ClusterRows(graph)
    rows.copy_more(sums.edge)
    rows.follow(graph.item_ptr, sums.edge, np.zeros(1, np.int32), np.ones((1, 3), np.int64))
    slates = ShortlistedSlates(CompiledSlates(graph, sums), rows)
    policy = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0)
    if policy is not None:
        one = Context(np.zeros(1, np.int32), np.ones(1))
        arguments = (slates._near(TOGETHER + 1), slates.slates.view, _NO_ITEMS, one.cluster_ids, one.weights)
        _shortlist(*arguments, policy.row, 1, 1)

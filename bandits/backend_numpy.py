"""The reference backend: plain NumPy, the definition that every fast path must equal bit for bit."""

import numpy as np

from bandits.arena import ranges
from bandits.context import Context
from bandits.extended_facts import add_extended
from bandits.graph import Graph
from bandits.policies import CandidateSums
from bandits.sums import LARGEST, UNIT, A, B, D, Facts, Int32, Int64, N, S, Sums, locate


class NumpyBackend:
    """Adds and gathers with whole-array operations."""

    name = "numpy"

    def add(self, graph: Graph, sums: Sums, facts: Facts) -> None:
        """See `Backend.add`."""
        if not facts.is_plain:
            add_extended(graph, sums, facts)
            return
        sizes = np.diff(facts.context_ptr)[facts.context]
        at = ranges(facts.context_ptr[facts.context], sizes)
        fact = np.repeat(np.arange(len(facts)), sizes)
        edge = locate(graph, facts.item[fact], facts.context_cluster[at][:, None])[:, 0]
        has_edge = edge >= 0
        edge, fact, x = edge[has_edge], fact[has_edge], facts.context_x[at][has_edge]
        shown = facts.impressions[fact]
        touched, row = np.unique(edge, return_inverse=True)
        delta = np.zeros((len(touched), 3), np.int64)
        np.add.at(delta[:, A], row, x * shown)
        np.add.at(delta[:, D], row, x * x * shown)
        np.add.at(delta[:, B], row, x * facts.reward[fact])
        sums.saturated += _add_saturating(sums.edge, touched, delta)
        touched, row = np.unique(facts.item, return_inverse=True)
        delta = np.zeros((len(touched), 2), np.int64)
        np.add.at(delta[:, N], row, facts.impressions)
        np.add.at(delta[:, S], row, facts.reward)
        sums.saturated += _add_saturating(sums.item, touched, delta)

    def gather(self, graph: Graph, sums: Sums, items: Int32, context: Context) -> CandidateSums:
        """See `Backend.gather`."""
        clusters = np.broadcast_to(context.cluster_ids, (len(items), len(context.cluster_ids)))
        edge = locate(graph, items, clusters)
        has_edge = edge >= 0
        if graph.n_edges:
            values = np.where(has_edge[:, :, None], sums.edge[edge], 0).astype(np.float64)
        else:
            values = np.zeros((*edge.shape, 3))
        return CandidateSums(
            weights=context.weights,
            edge=has_edge,
            a=values[:, :, A] / UNIT,
            d=values[:, :, D] / UNIT**2,
            b=values[:, :, B] / UNIT**2,
            n=sums.item[items, N].astype(np.float64),
            s=sums.item[items, S] / UNIT,
            keys=graph.item_hashes[items, 0],
        )


def _add_saturating(sums: Int64, rows: Int64, delta: Int64) -> int:
    """Add to rows, stopping at the largest value; how many stopped there."""
    added = sums[rows] + delta  # all are >= 0, so a sum that wrapped is smaller than what it started from
    wrapped = added < sums[rows]
    sums[rows] = np.where(wrapped, LARGEST, added)
    return int(np.count_nonzero(wrapped))

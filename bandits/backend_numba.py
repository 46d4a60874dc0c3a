"""The fast CPU backend: one compiled pass over the facts or the candidates.

Invariant: equal to the NumPy reference bit for bit.
"""

import numpy as np

from bandits.context import Context
from bandits.graph import Graph, build_graph
from bandits.numba_kernels import add_facts, gather_candidates
from bandits.policies import CandidateSums
from bandits.sums import UNIT, Facts, Int32, Sums


class NumbaBackend:
    """Adds and gathers with compiled loops. Construction compiles them, or reads them from the cache on disk."""

    name = "numba"

    def __init__(self, *, extended: bool = False) -> None:
        # The first caller, whose feedback must be served within a second, must not wait for the compiler.
        graph = build_graph(
            version="warm-up", centroids=[], n_clusters=1, item_ids=["item"], edge_item=[0], edge_cluster=[0]
        )
        first, one = np.zeros(1, np.int32), np.ones(1, np.int64)
        facts = Facts(first, first, one, one, np.array([0, 1], np.int64), first, one)
        sums = Sums.zeros(graph)
        self.add(graph, sums, facts)
        self.gather(graph, sums, first, Context(first, np.ones(1)))
        if extended:
            self._add_extended(graph, sums, facts)

    def add(self, graph: Graph, sums: Sums, facts: Facts) -> None:
        """See `Backend.add`."""
        if not facts.is_plain:
            self._add_extended(graph, sums, facts)
            return
        sums.saturated += add_facts(
            graph.item_ptr,
            graph.edge_cluster,
            sums.edge,
            sums.item,
            facts.item,
            facts.context,
            facts.impressions,
            facts.reward,
            facts.context_ptr,
            facts.context_cluster,
            facts.context_x,
        )

    def _add_extended(self, graph: Graph, sums: Sums, facts: Facts) -> None:
        # Only who needs it waits for the compiler, once a machine.
        from bandits.numba_extended import add_extended_facts

        extra, times = sums.with_extra()
        nothing = np.zeros(len(facts), np.int64)
        sums.saturated += add_extended_facts(
            graph.item_ptr,
            graph.edge_cluster,
            sums.edge,
            sums.item,
            extra,
            times,
            facts.item,
            facts.context,
            facts.impressions,
            facts.reward,
            nothing if facts.opening is None else facts.opening,
            np.full(len(facts), UNIT, np.int64) if facts.gamma is None else facts.gamma,
            nothing if facts.shown_ms is None else facts.shown_ms,
            nothing if facts.half_life_ms is None else facts.half_life_ms,
            facts.context_ptr,
            facts.context_cluster,
            facts.context_x,
        )

    def gather(self, graph: Graph, sums: Sums, items: Int32, context: Context) -> CandidateSums:
        """See `Backend.gather`."""
        shape = (len(items), len(context.cluster_ids))
        edge, a, d, b = np.empty(shape, np.bool_), np.empty(shape), np.empty(shape), np.empty(shape)
        n, s, keys = np.empty(shape[0]), np.empty(shape[0]), np.empty(shape[0], np.uint64)
        gather_candidates(
            graph.item_ptr,
            graph.edge_cluster,
            sums.edge,
            sums.item,
            graph.item_hashes,
            items,
            context.cluster_ids,
            edge,
            a,
            d,
            b,
            n,
            s,
            keys,
        )
        return CandidateSums(weights=context.weights, edge=edge, a=a, d=d, b=b, n=n, s=s, keys=keys)

"""The parameters that a policy is asked with: learned from the first part of a log, or those of a store.

Invariant: learning is the fold of the server: each row counts its impression once and its reward once.
"""

from pathlib import Path

import numpy as np

from bandits.arena import ranges
from bandits.backend import Backend
from bandits.graph import Graph
from bandits.sums import UNIT, Facts, Sums
from streams.evaluation.slates import LoggedSlates
from streams.graph_history import restore_graph
from streams.restore import restore_learner
from streams.store import Store, StoreError

_SLATES_AT_ONCE = 20_000


def learn(log: LoggedSlates, backend: Backend) -> Sums:
    """Sums of a log, every row of an item that the graph has."""
    sums = Sums.zeros(log.graph)
    starts = np.searchsorted(log.slate, np.arange(0, len(log) + _SLATES_AT_ONCE, _SLATES_AT_ONCE))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        rows = start + np.flatnonzero(log.item[start:end] >= 0)
        used, context = np.unique(log.context[log.slate[rows]], return_inverse=True)
        sizes = np.diff(log.context_ends, prepend=0)[used]
        at = ranges(log.context_ends[used] - sizes, sizes)
        facts = Facts(
            item=log.item[rows],
            context=context.astype(np.int32),
            impressions=np.ones(len(rows), np.int64),
            reward=np.rint(log.reward[rows] * UNIT).astype(np.int64),
            context_ptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            context_cluster=log.context_cluster[at],
            context_x=log.context_x[at],
        )
        if len(facts):
            backend.add(log.graph, sums, facts)
    return sums


def stored_parameters(data_dir: Path, backend: Backend) -> tuple[Graph, Sums]:
    """Graph and sums of a store as they stand; a server may be writing it.

    Raises:
        StoreError: it cannot be read, or has no graph.
    """
    store = Store(data_dir / "store", read_only=True)
    try:
        head = store.head()
        if not head.graph_version:
            raise StoreError(f"the store in {data_dir} has no graph yet, there is nothing to evaluate")
        graph = restore_graph(store, data_dir, head)
        return graph, restore_learner(store, head, graph, backend).sums
    finally:
        store.close()

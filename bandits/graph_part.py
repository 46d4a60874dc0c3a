"""Some items of a graph, and their sums, taken over by another graph: a switch of graphs, one shard at a time.

Invariant: sums that are taken over shard by shard are, bit for bit, those of a switch of the whole graph.
"""

from dataclasses import replace

import numpy as np

from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.overlap import OverlapMap, inherit_sums
from bandits.sums import Int32, Sums, carry_over, chosen


def part_of(graph: Graph, items: Int32) -> Graph:
    """Some numbers of a graph as a graph of their own, numbered anew in their order; for sums, not for retrieval.

    Args:
        graph: may be edited.
        items: int32 of shape (n,), distinct numbers of distinct items.
    """
    nothing = np.empty(0, np.int64)
    return replace(
        graph,
        item_ids=[graph.item_ids[number] for number in items.tolist()],
        item_ptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(graph.item_ptr)[items])]),
        edge_cluster=graph.edge_cluster[edges_of(graph, items)],
        cluster_ptr=np.zeros(graph.n_clusters + 1, np.int64),
        cluster_item=nothing.astype(np.int32),
        cluster_edge=nothing,
        published_ms=None,
        edits=None,
    )


def take_over(
    old: Graph,
    old_sums: Sums,
    old_items: Int32,
    new: Graph,
    new_sums: Sums,
    new_items: Int32,
    *,
    overlap: OverlapMap | None = None,
) -> None:
    """Write what some items of `new` keep of their sums in `old`; edges that they had not begin at zero.

    Args:
        old: the graph before.
        old_sums: its sums; not touched.
        old_items: int32, numbers of the items there; those that `new_items` lacks are dropped.
        new: the graph after.
        new_sums: its sums; the rows of `new_items` are written.
        new_items: int32, numbers of the items here.
        overlap: where clusters were made anew, the map that sums are inherited through.

    Raises:
        ValueError: the map is not between the clusters of these graphs.
    """
    source, target = part_of(old, old_items), part_of(new, new_items)
    edges = edges_of(old, old_items)
    held = Sums(
        old_sums.edge[edges],
        old_sums.item[old_items],
        extra=chosen(old_sums.extra, edges),
        times=chosen(old_sums.times, old_items),
    )
    sums = carry_over(source, held, target) if overlap is None else inherit_sums(source, held, target, overlap)
    edges = edges_of(new, new_items)
    new_sums.release()
    new_sums.edge[edges], new_sums.item[new_items] = sums.edge, sums.item
    new_sums.saturated += sums.saturated
    if sums.extra is not None and sums.times is not None:
        extra, times = new_sums.with_extra()
        extra[edges], times[new_items] = sums.extra, sums.times
    elif new_sums.extra is not None and new_sums.times is not None:
        new_sums.extra[edges], new_sums.times[new_items] = 0, 0

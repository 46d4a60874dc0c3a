"""Items with their sums, for operators: one by number, or the top by an order.

Invariant: all views of one answer come from one position. O(edges) array work, no loop but over the items shown.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bandits.graph import Graph
from bandits.sums import UNIT, A, B, D, Float64, Int64, N, S, Sums
from freshet.v1 import operations_pb2, parameters_pb2
from server.limits import SENT_INFINITY

Order = Callable[[Graph, Sums], Float64]


def views_of(graph: Graph, sums: Sums, numbers: Sequence[int], *, position: int) -> list[operations_pb2.ItemView]:
    """Items with their sums and what they amount to."""
    return [_view(graph, sums, number, position) for number in numbers]


def top_items(graph: Graph, sums: Sums, *, order: int, limit: int) -> list[int]:
    """Numbers of the `limit` items that come first by an `ItemOrder`, ties by number."""
    key = _ORDERS[order](graph, sums)
    if graph.edits is not None:  # numbers that stand for no item come last, and are not counted
        key = np.where(graph.edits.live, key, -np.inf)
    count = min(limit, graph.n_live_items)
    if count == 0:
        return []
    # Everything at least as high as the last one that fits, so that ties there are broken by number too.
    threshold = np.partition(key, len(key) - count)[len(key) - count]
    contenders = np.flatnonzero(key >= threshold)
    chosen: list[int] = contenders[np.lexsort((contenders, -key[contenders]))][:count].tolist()
    return chosen


def uncertainty(graph: Graph, sums: Sums) -> Float64:
    """Largest width 1 / sqrt(d) over the edges of each item, float64 of shape (n_items,).

    `SENT_INFINITY` where an edge is unseen, 0 where the item has no edges.
    """
    widest = np.zeros(graph.n_items)
    has_edges = np.diff(graph.item_ptr) > 0
    if has_edges.any():
        smallest = np.minimum.reduceat(sums.edge[:, D], graph.item_ptr[:-1][has_edges])
        widest[has_edges] = _width(smallest)
    return widest


def _width(d: Int64) -> Float64:
    with np.errstate(divide="ignore"):
        return np.minimum(UNIT / np.sqrt(d.astype(np.float64)), SENT_INFINITY)


def _mean(graph: Graph, sums: Sums) -> Float64:
    shown = np.maximum(sums.item[:, N], 1)
    return sums.item[:, S] / UNIT / shown


def _impressions(graph: Graph, sums: Sums) -> Float64:
    return sums.item[:, N].astype(np.float64)


_ORDERS: dict[int, Order] = {
    operations_pb2.ITEM_ORDER_UNSPECIFIED: uncertainty,
    operations_pb2.ITEM_ORDER_UNCERTAINTY: uncertainty,
    operations_pb2.ITEM_ORDER_IMPRESSIONS: _impressions,
    operations_pb2.ITEM_ORDER_MEAN: _mean,
}


def _view(graph: Graph, sums: Sums, number: int, position: int) -> operations_pb2.ItemView:
    edges = slice(int(graph.item_ptr[number]), int(graph.item_ptr[number + 1]))
    rows, (n, s) = sums.edge[edges], sums.item[number].tolist()
    parameters = parameters_pb2.ItemParameters(
        cluster_ids=graph.edge_cluster[edges].tolist(),
        a=rows[:, A].tolist(),
        d=rows[:, D].tolist(),
        b=rows[:, B].tolist(),
        n=n,
        s=s,
        position=position,
    )
    return operations_pb2.ItemView(
        item_id=graph.item_ids[number],
        parameters=parameters,
        mean=s / UNIT / max(n, 1),
        uncertainty=float(_width(rows[:, D]).max(initial=0.0)),
    )

"""Changed rows that are copied by a compiled loop lie where an assignment by index puts them."""

import numpy as np
import pytest

from bandits.graph import build_graph
from bandits.graph_edit import edges_of
from bandits.numba_copy import copy_rows


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_copied_rows_lie_where_they_belong(count: int) -> None:
    """Whatever the lengths of rows and the order of items, and the totals grow by what was new."""
    rng = np.random.default_rng(count)
    degrees = rng.integers(0, 40, 50)
    edge_item = np.repeat(np.arange(50), degrees)
    edge_cluster = np.concatenate([rng.permutation(64)[:size] for size in degrees.tolist()])
    ids = [f"i{number}" for number in range(50)]
    graph = build_graph(
        version="v", centroids=[], n_clusters=64, item_ids=ids, edge_item=edge_item, edge_cluster=edge_cluster
    )
    edge, item = rng.integers(0, 1 << 40, (graph.n_edges, 3)), rng.integers(0, 1 << 40, (50, 2))
    items = rng.permutation(50)[:count].astype(np.int32)
    edges = edges_of(graph, items)
    edge_rows, item_rows = rng.integers(0, 1 << 40, (len(edges), 3)), rng.integers(0, 1 << 40, (count, 2))
    expected_edge, expected_item = edge.copy(), item.copy()
    expected_edge[edges], expected_item[items] = edge_rows, item_rows
    before = item.sum(axis=0)
    grown = copy_rows(graph.item_ptr, edge, item, items, edge_rows, item_rows)
    np.testing.assert_array_equal(edge, expected_edge)
    np.testing.assert_array_equal(grown, expected_item.sum(axis=0) - before)
    np.testing.assert_array_equal(item, expected_item)

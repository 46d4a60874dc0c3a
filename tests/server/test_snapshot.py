"""A reading is of one graph and one position, whatever is written meanwhile."""

import threading
from typing import Any

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.sums import UNIT, Sums
from server.snapshot import Snapshot
from streams.change import Change
from tests.server.serving import N_CLUSTERS, small_graph

EVERYWHERE = Context(np.arange(N_CLUSTERS, dtype=np.int32), np.full(N_CLUSTERS, 0.5))


def change(graph: Graph, items: Any, value: int, *, full: bool = False) -> Change:
    """All sums of some items become `value`, and so does the position."""
    numbers = np.asarray(items, np.int32)
    edge_rows = np.full((len(edges_of(graph, numbers)), 3), value, np.int64)
    return Change(graph, numbers, edge_rows, np.full((len(numbers), 2), value, np.int64), value, full)


def everything(graph: Graph, value: int, *, full: bool = False) -> Change:
    return change(graph, np.arange(graph.n_items), value, full=full)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_readers_never_see_half_a_change(backend: Any) -> None:
    """A writer keeps all sums equal to the position; no reader sees two values, nor another position."""
    graph = small_graph()
    snapshot = Snapshot(choose_backend(backend))
    snapshot.apply(everything(graph, 0, full=True))
    everyone = np.arange(graph.n_items, dtype=np.int32)
    stop = threading.Event()
    seen: list[int] = []
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            parameters = snapshot.current
            assert parameters is not None
            reading = parameters.gather(everyone, EVERYWHERE)
            sums, edge = reading.sums, reading.sums.edge
            values = {*np.unique(sums.n).tolist(), *np.unique(np.rint(sums.a[edge] * UNIT)).tolist()}
            values |= {*np.unique(np.rint(sums.b[edge] * UNIT**2)).tolist()}
            seen.append(reading.position)
            if values != {reading.position}:
                wrong.append((values, reading.position))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for value in range(1, 300):
        snapshot.apply(everything(graph, value))
        if value % 100 == 0:  # a switch to another version in the middle of it all
            graph = small_graph(f"v{value}")
            snapshot.apply(everything(graph, value, full=True))
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(set(seen)) > 1


def test_changed_rows_equal_a_model() -> None:
    """After any changes the sums are those of plain assignment, and the totals are theirs."""
    rng = np.random.default_rng(3)
    graph = small_graph()
    snapshot = Snapshot(choose_backend("numpy"))
    snapshot.apply(everything(graph, 5, full=True))
    model = Sums(np.full((graph.n_edges, 3), 5, np.int64), np.full((graph.n_items, 2), 5, np.int64))
    for value in range(6, 30):
        part = change(graph, rng.choice(graph.n_items, size=rng.integers(0, 20), replace=False), value)
        part.put_into(model)
        snapshot.apply(part)
    parameters = snapshot.current
    assert parameters is not None
    edge, item = parameters.read(lambda sums, _: (sums.edge.copy(), sums.item.copy()))
    assert np.array_equal(edge, model.edge)
    assert np.array_equal(item, model.item)
    assert parameters.totals == (model.item[:, 0].sum(), model.item[:, 1].sum() / UNIT)
    assert parameters.position == 29


def test_the_snapshot_owns_its_sums() -> None:
    """Whoever made a change may write to its arrays afterwards."""
    graph = small_graph()
    first = everything(graph, 1, full=True)
    snapshot = Snapshot(choose_backend("numpy"))
    snapshot.apply(first)
    first.edge_rows[:] = 99
    first.item_rows[:] = 99
    parameters = snapshot.current
    assert parameters is not None
    assert parameters.read(lambda sums, _: (int(sums.edge.max()), int(sums.item.max()))) == (1, 1)


def test_a_reader_keeps_its_graph_through_a_switch() -> None:
    """Item numbers that a reader has looked up stay those of the graph it reads."""
    old = small_graph("old")
    snapshot = Snapshot(choose_backend("numpy"))
    snapshot.apply(everything(old, 3, full=True))
    held = snapshot.current
    assert held is not None
    snapshot.apply(everything(small_graph("new", n_items=10), 7, full=True))
    last = np.array([old.n_items - 1], np.int32)
    assert held.gather(last, EVERYWHERE).position == 3
    assert held.graph is old
    current = snapshot.current
    assert current is not None
    assert (current.graph.version, current.position) == ("new", 7)


def test_rows_of_another_graph_are_refused() -> None:
    """A partial change is in the numbering of the current graph, or it would land on other items."""
    snapshot = Snapshot(choose_backend("numpy"))
    with pytest.raises(ValueError, match="expected rows of graph none, got rows of v1"):
        snapshot.apply(everything(small_graph(), 1))
    snapshot.apply(everything(small_graph(), 1, full=True))
    with pytest.raises(ValueError, match="expected rows of graph v1, got rows of v1"):
        snapshot.apply(everything(small_graph(), 2))

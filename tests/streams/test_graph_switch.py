"""Graphs of the embedded loop: surviving edges keep their sums, dead ones stay dead, versions mean one graph."""

from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph import Graph
from streams.embedded import EmbeddedLoop
from streams.graph_history import graph_folder
from streams.verify import verify_store
from tests.streams.loops import ITEMS, clicked, make_graph, model_hash, offer, open_loop, settle, shown, started

EVENTS = [event for n in range(12) for event in (shown(f"r{n}", *ITEMS), clicked(f"r{n}", ITEMS[n % 6]))]
FULL = make_graph()
# item-1 is shown in clusters 1 (its edge) and 2; item-0 in 2; item-5 goes altogether.
NARROW = make_graph("narrow", leave_out=[("item-1", 1), ("item-0", 2)], items=ITEMS[:5])


def edge(loop: EmbeddedLoop, item: str, cluster: int) -> list[int]:
    learner = loop._committer.learner
    assert learner is not None
    graph: Graph = learner.graph
    number = graph.index[item]
    row = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]].tolist()
    sums: list[int] = learner.sums.edge[int(graph.item_ptr[number]) + row.index(cluster)].tolist()
    return sums


def reopened(folder: Path, loop: EmbeddedLoop) -> EmbeddedLoop:
    """The loop after a restart, with the same state as before it."""
    live = loop.state_hash()
    loop.stop(grace_s=10)
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    again = started(folder)
    assert again.state_hash() == live == result.state_hash
    return again


@pytest.mark.parametrize("restart", [False, True])
def test_dead_edges_do_not_come_back(tmp_path: Path, restart: bool) -> None:
    """Edges of both graphs keep their sums; a later graph that has a dead edge again finds it at zero."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    before = {name: edge(loop, *name) for name in (("item-1", 1), ("item-3", 1), ("item-5", 1), ("item-0", 2))}
    assert all(map(any, before.values()))
    switch = loop.load_graph(NARROW)
    assert (switch.kept, switch.added) == (NARROW.n_edges, 0)
    assert switch.dropped == FULL.n_edges - NARROW.n_edges
    loop = reopened(tmp_path, loop) if restart else loop
    assert edge(loop, "item-3", 1) == before["item-3", 1]
    loop.load_graph(make_graph("v3"))
    loop = reopened(tmp_path, loop) if restart else loop
    assert edge(loop, "item-3", 1) == before["item-3", 1]
    for dead in (("item-1", 1), ("item-5", 1), ("item-0", 2)):
        assert edge(loop, *dead) == [0, 0, 0]
    settle(offer(loop, shown("new", "item-1", "item-5")))
    assert edge(loop, "item-1", 1)[0] == edge(loop, "item-5", 1)[0] == 1 << 14
    reopened(tmp_path, loop).stop(grace_s=10)


def test_a_switch_while_frozen_learns_the_rest_under_the_new_graph(tmp_path: Path) -> None:
    """What came while frozen is learned once, by the graph in force when learning resumes."""
    loop = started(tmp_path)
    loop.freeze(True)
    settle(offer(loop, *EVENTS))
    loop.load_graph(NARROW)
    loop = reopened(tmp_path, loop)
    loop.freeze(False)
    assert loop.state_hash() == model_hash(NARROW, EVENTS)
    reopened(tmp_path, loop).stop(grace_s=10)


def test_going_back_to_an_earlier_graph_starts_its_lost_edges_at_zero(tmp_path: Path) -> None:
    """The version is known, its sums are not: they went with the switch."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    loop.load_graph(NARROW)
    loop.load_graph(FULL)
    assert edge(loop, "item-1", 1) == [0, 0, 0]
    assert any(edge(loop, "item-3", 1))
    reopened(tmp_path, loop).stop(grace_s=10)


def test_the_same_graph_again_changes_nothing(tmp_path: Path) -> None:
    """No row is written, no history grows."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    live, switches = loop.state_hash(), loop._committer.head.graph_switches
    switch = loop.load_graph(make_graph())
    assert (switch.kept, switch.added, switch.dropped) == (FULL.n_edges, 0, 0)
    assert (loop.state_hash(), loop._committer.head.graph_switches) == (live, switches)
    loop.stop(grace_s=10)


@pytest.mark.parametrize("current", [True, False])
def test_another_graph_of_a_known_version_is_refused(tmp_path: Path, current: bool) -> None:
    """After a restart the store would go on with the other graph: its rows would be misread."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    if not current:
        loop.load_graph(NARROW)
    live = loop.state_hash()
    with pytest.raises(ValueError, match='graph version: expected a new one, got "v1"'):
        loop.load_graph(make_graph("v1", leave_out=[("item-1", 1)]))
    assert loop.state_hash() == live
    reopened(tmp_path, loop).stop(grace_s=10)


@pytest.mark.parametrize("version", ["..", ".", "../../outside", "a/b", "v 1é", "%2E", "C:\\x", "x" * 100])
def test_any_version_name_stays_within_its_folder(tmp_path: Path, version: str) -> None:
    """A version comes from a file: it is a name, not a path."""
    loop = started(tmp_path / "data", graph=make_graph(version))
    settle(offer(loop, *EVENTS))
    reopened(tmp_path / "data", loop).stop(grace_s=10)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["graphs", "store"]
    assert graph_folder(tmp_path / "data", version).parent == tmp_path / "data" / "graphs"


def test_the_stores_graph_wins_over_the_one_given(tmp_path: Path) -> None:
    """A restart with an old flag must not undo a switch."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    loop.load_graph(NARROW)
    loop.stop(grace_s=10)
    again = open_loop(tmp_path, graph=FULL)
    assert again.graph is not None
    assert again.graph.version == "narrow"
    assert np.array_equal(again.graph.edge_cluster, NARROW.edge_cluster)
    again.stop(grace_s=1)

"""Rows by cluster stay in step with the sums that are served, through changes, edits and switches of the graph."""

from typing import Any

import numpy as np
import pytest

from bandits import shortlist_numba as shortlist
from bandits.backend import choose_backend
from bandits.cluster_rows_numba import ClusterRows
from bandits.context import Context
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edges_of, edited
from bandits.growing import Growing
from bandits.policies import PolicySettings
from bandits.sums import UNIT, Int64
from server.scoring import SlateRules
from server.snapshot import Parameters, Snapshot
from streams.change import Change
from tests.server.serving import N_CLUSTERS, small_graph

USER = Context(np.arange(0, N_CLUSTERS, 2, dtype=np.int32), np.array([0.125, 0.25, 0.5, 0.125]))
RULES = SlateRules(PolicySettings(pooled_mean=0.1), top_m=1, explore_share=0.0, propensity_draws=1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were on the lists that were made; they are made around however few edges, and always used."""
    lists: list[int] = []
    entry = shortlist._fill_listed

    def counted(*given: Any) -> tuple[int, int]:
        found: tuple[int, int] = entry(*given)
        if found[0] >= 0:
            lists.append(found[0])
        return found

    monkeypatch.setattr(shortlist, "FEWEST_EDGES", 0)
    monkeypatch.setattr(shortlist, "_SHARE", 0)
    monkeypatch.setattr(shortlist, "_fill_listed", counted)
    monkeypatch.setattr(ClusterRows.copy_more, "__defaults__", (37,))
    return lists


def rows_of(graph: Graph, items: Any, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Sums as if learned, for some items."""
    count = len(edges_of(graph, np.asarray(items, np.int32)))
    x, shown = rng.integers(1 << 10, UNIT, count), rng.integers(0, 3_000, count)
    edge = np.stack([shown * x, shown * x * x, (shown * rng.random(count) * x).astype(np.int64) * UNIT], axis=1)
    times = rng.integers(1, 1_000, len(items))
    return edge, np.stack([times, (times * rng.random(len(items)) * UNIT).astype(np.int64)], axis=1)


def check(parameters: Parameters, seed: int) -> None:
    """What is recommended is what a Score of everybody around the user, from the same sums, gives."""
    items = parameters.graph.items_around(USER.cluster_ids)
    for mode in ("ucb", "randomized_ucb", "exploit", "thompson"):
        asked: dict[str, Any] = {"mode": mode, "slate_size": 6, "seed": seed, "rules": RULES}
        found = parameters.fill_around(USER, **asked)
        assert found is not None
        chosen, slate, count, position = found
        expected, of_score = parameters.fill(items, USER, **asked)
        assert (count, position) == (len(items), of_score)
        assert chosen.tolist() == items[expected.chosen].tolist()
        for name in ("score", "mean", "width", "explored"):
            np.testing.assert_array_equal(getattr(slate, name), getattr(expected, name), name)
        np.testing.assert_allclose(slate.propensity, expected.propensity, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_recommend_is_in_step_with_score_whatever_happens(
    made: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Changes, edits that fit or do not, switches: the slate is that of the sums, for old readers too."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr("bandits.growing._LEAST_ROOM", 64)
    fits = Growing.fits
    monkeypatch.setattr(Growing, "fits", lambda *given: sum(given[1:]) % 3 > 0 and fits(*given))
    snapshot = Snapshot(choose_backend("numba"))
    graph, versions = small_graph(), 1
    held: list[Parameters] = []
    snapshot.apply(Change(graph, np.arange(40, dtype=np.int32), *rows_of(graph, range(40), rng), 0, full=True))
    for position in range(1, 60):
        what = rng.choice(["change", "change", "change", "edit", "switch"], p=[0.3, 0.3, 0.2, 0.17, 0.03])
        if what == "change":
            items = rng.permutation(graph.n_items)[: rng.integers(0, 9)].astype(np.int32)
            snapshot.apply(Change(graph, items, *rows_of(graph, items, rng), position, full=False))
        elif what == "edit":
            versions += 1
            old, there = graph, list(graph.index)
            names = [f"new-{versions}", *rng.choice(there, 2, replace=False).tolist()]
            clusters = [rng.permutation(N_CLUSTERS)[: rng.integers(1, 5)] for _ in names]
            gone = [i for i in rng.choice(there, 2, replace=False).tolist() if i not in names]
            graph = edited(old, GraphEdit(f"v{versions}", names, clusters, retired=gone))
            items = np.arange(old.n_items, graph.n_items, dtype=np.int32)
            snapshot.apply(Change(graph, items, *rows_of(graph, items, rng), position, full=False, extends=old))
        else:
            versions += 1
            graph, held = small_graph(f"v{versions}"), []
            rows = rows_of(graph, range(40), rng)
            snapshot.apply(Change(graph, np.arange(40, dtype=np.int32), *rows, position, full=True))
        current = snapshot.current
        assert current is not None
        check(current, position)
        held = [*held[-2:], current]
        for before in held:
            check(before, position)
    assert len(made) > 100


def test_rows_are_made_for_those_who_recommend_alone(made: list[int]) -> None:
    """A server that is only asked for scores has no second copy of its sums; who recommends gets one by and by."""
    snapshot, graph, rng = Snapshot(choose_backend("numba")), small_graph(), np.random.default_rng(1)
    change = Change(graph, np.arange(40, dtype=np.int32), *rows_of(graph, range(40), rng), 0, full=True)
    snapshot.apply(change)
    parameters = snapshot.current
    assert parameters is not None
    asked: dict[str, Any] = {"mode": "ucb", "slate_size": 6, "seed": 1, "rules": RULES}
    parameters.fill(np.arange(40, dtype=np.int32), USER, **asked)
    assert parameters._cluster_rows is not None
    assert parameters._cluster_rows.rows.nbytes == 0
    calls = 0
    while not made:
        parameters.fill_around(USER, **asked)
        calls += 1
    assert calls == 1 + -(-graph.n_edges // 37)

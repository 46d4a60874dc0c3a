"""Slates filled from rows in shared memory are those of the sums beside them, and those that one process fills."""

import os
from typing import Any

import numpy as np
import pytest

from bandits.cluster_rows_numba import ClusterRows
from bandits.context import Context
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edited
from bandits.policies import PolicySettings
from server.processes.segment import ROWS_READY
from server.scoring import SlateRules
from server.snapshot import Parameters, Snapshot
from streams.change import Change
from tests.server.processes.test_shared_parameters import Pair
from tests.server.serving import N_CLUSTERS, small_graph
from tests.server.test_recommend_rows import check as check_around
from tests.server.test_recommend_rows import made
from tests.server.test_score_rows import check, rows_of

__all__ = ["made"]

USER = Context(np.arange(0, N_CLUSTERS, 2, dtype=np.int32), np.array([0.125, 0.25, 0.5, 0.125]))
RULES = SlateRules(PolicySettings(pooled_mean=0.1), top_m=1, explore_share=0.0, propensity_draws=1)


def change_of(graph: Graph, items: Any, rng: np.random.Generator, at: int, **fields: Any) -> Change:
    numbers = np.asarray(items, np.int32)
    return Change(graph, numbers, *rows_of(graph, numbers, rng), at, **({"full": False} | fields))


def next_change(graph: Graph, rng: np.random.Generator, at: int) -> Change:
    """Rows of some items, an edit, or another graph."""
    what = rng.random()
    if what < 0.03:
        new = small_graph(f"v{at}")
        return change_of(new, np.arange(new.n_items), rng, at, full=True)
    if what < 0.25:
        known = sorted(graph.index)
        names = [f"new-{at}", *rng.choice(known, 2, replace=False).tolist()]
        clusters = [rng.permutation(N_CLUSTERS)[: rng.integers(1, 5)] for _ in names]
        gone = [item for item in rng.choice(known, 2, replace=False).tolist() if item not in names]
        new = edited(graph, GraphEdit(f"e{at}", names, clusters, retired=gone))
        return change_of(new, np.arange(graph.n_items, new.n_items), rng, at, extends=graph)
    return change_of(graph, rng.permutation(graph.n_items)[: rng.integers(0, 9)], rng, at)


def assert_alike(ours: Parameters, theirs: Parameters, seed: int) -> None:
    """The same slates from two copies of one state, of candidates and around a user."""
    items = ours.graph.items_around(USER.cluster_ids)
    for mode in ("ucb", "randomized_ucb"):
        asked: dict[str, Any] = {"mode": mode, "slate_size": 6, "seed": seed, "rules": RULES}
        (got, at), (wanted, where) = ours.fill(items, USER, **asked), theirs.fill(items, USER, **asked)
        assert at == where
        for name in ("chosen", "score", "mean", "width", "propensity"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), name)
        around, expected = ours.fill_around(USER, **asked), theirs.fill_around(USER, **asked)
        assert around is not None
        assert expected is not None
        assert around[0].tolist() == expected[0].tolist()
        np.testing.assert_array_equal(around[1].score, expected[1].score)
        assert around[2:] == expected[2:]


@pytest.mark.parametrize("room", [2, 1 << 16])
def test_rows_in_shared_memory_follow_whatever_happens(
    made: list[int],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    """Changes, edits with room and without, switches: both sides serve what the sums say, to old readers too."""
    monkeypatch.setattr("server.processes.segment._LEAST_ROOM", room)
    rng = np.random.default_rng(int(os.environ.get("FRESHET_TEST_SEED", "3")) + room)
    pair, model = Pair("numba"), Snapshot(Pair("numba").backend)
    graph = small_graph()
    change = change_of(graph, np.arange(graph.n_items), rng, 1, full=True)
    held: list[Parameters] = []
    ready = 0
    for at in range(2, 70):
        pair.publisher.apply(change)
        model.apply(change)
        if change.full:
            held = []
        current, own = pair.reader.current, model.current
        assert current is not None
        assert own is not None
        assert_alike(current, own, at)
        held = [*held[-2:], current]
        for parameters in held:
            check(parameters, at)
            check_around(parameters, at)
        for _ in range(int(rng.integers(0, 4))):
            pair.publisher.copy_some_wished()
        ready += pair.segments[-1].words[ROWS_READY]
        change = next_change(change.graph, rng, at)
    assert ready > 5
    assert len(made) > 50


def test_rows_by_cluster_are_copied_for_those_who_recommend_alone(
    made: list[int],
) -> None:
    """The writer copies none before a process has asked for them, and then those of the graph in force."""
    pair, graph, rng = Pair("numba"), small_graph(), np.random.default_rng(1)
    pair.publisher.apply(change_of(graph, np.arange(40), rng, 1, full=True))
    parameters = pair.reader.current
    assert parameters is not None
    asked: dict[str, Any] = {"mode": "ucb", "slate_size": 6, "seed": 1, "rules": RULES}
    parameters.fill(np.arange(40, dtype=np.int32), USER, **asked)
    assert pair.publisher.copy_wished()
    assert not pair.segments[-1].words[ROWS_READY]
    parameters.fill_around(USER, **asked)
    assert pair.publisher.copy_wished(longest_s=30.0)
    assert pair.segments[-1].words[ROWS_READY]
    parameters.fill_around(USER, **asked)
    assert made
    assert isinstance(parameters._slates_around()._rows, ClusterRows)  # type: ignore[union-attr]

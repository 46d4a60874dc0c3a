"""Slates are those of the sums at their position, through changes and edits, for whoever still reads older ones."""

from typing import Any

import numpy as np
import pytest

from bandits import growing
from bandits.backend import choose_backend
from bandits.context import Context
from bandits.edited_sums import moved_rows
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edges_of, edited
from bandits.policies import PolicySettings
from bandits.sums import UNIT, Int64
from server.scoring import SlateRules, fill_slate
from server.snapshot import Parameters, Snapshot
from streams.change import Change
from tests.server.serving import N_CLUSTERS, small_graph

USER = Context(np.arange(N_CLUSTERS, dtype=np.int32), np.full(N_CLUSTERS, 0.125))
RULES = SlateRules(PolicySettings(pooled_mean=0.1), top_m=1, explore_share=0.0, propensity_draws=1)


def rows_of(graph: Graph, items: Any, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Sums as if learned, for some items; some are larger than a row holds."""
    count = len(edges_of(graph, np.asarray(items, np.int32)))
    x, shown = rng.integers(1 << 10, UNIT, count), rng.choice([0, 7, 3_000, 10**9], count, p=[0.2, 0.4, 0.35, 0.05])
    edge = np.stack([shown * x, shown * x * x, (shown * x // 7) * UNIT], axis=1)
    times = rng.integers(1, 1_000, len(items))
    return edge, np.stack([times, times * UNIT // 5], axis=1)


def check(parameters: Parameters, seed: int) -> None:
    """All items at once: the slate of the compiled call beside that of the gathered sums."""
    edits = parameters.graph.edits
    live = np.ones(parameters.graph.n_items, np.bool_) if edits is None else edits.live
    items = np.flatnonzero(live).astype(np.int32)
    for mode in ("ucb", "randomized_ucb", "exploit", "thompson"):
        made, position = parameters.fill(items, USER, mode=mode, slate_size=0, seed=seed, rules=RULES)
        reading = parameters.gather(items, USER)
        told = fill_slate(reading.sums, mode=mode, slate_size=0, seed=seed, rules=RULES)
        assert position == reading.position
        for name in ("chosen", "score", "mean", "width"):
            np.testing.assert_array_equal(getattr(made, name), getattr(told, name))


@pytest.mark.parametrize("room", [2, 4_096])
def test_scores_are_those_of_the_sums_whatever_happens(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes and edits, with room for them and without; a graph that was edited twice since is still right."""
    monkeypatch.setattr(growing, "_LEAST_ROOM", room)
    rng = np.random.default_rng(room)
    graph = small_graph()
    snapshot = Snapshot(choose_backend("numba"))
    everyone = np.arange(graph.n_items, dtype=np.int32)
    snapshot.apply(Change(graph, everyone, *rows_of(graph, everyone, rng), 1, True))
    held: list[Parameters] = []
    for position in range(2, 20):
        parameters = snapshot.current
        assert parameters is not None
        check(parameters, position)
        for before in held[-3:]:
            check(before, position)
        if position % 3:
            items = rng.choice(graph.n_items, 9, replace=False).astype(np.int32)
            snapshot.apply(Change(graph, items, *rows_of(graph, items, rng), position, False))
            continue
        held.append(parameters)
        sums = parameters.read(lambda sums, _: type(sums)(sums.edge.copy(), sums.item.copy()))
        ids = [graph.item_ids[int(rng.integers(graph.n_items))], f"new{position}"]
        newer = edited(graph, GraphEdit(f"v{position}", ids, [[0, 1], [int(rng.integers(N_CLUSTERS))]]))
        rows = moved_rows(graph, sums, newer)
        added = np.arange(graph.n_items, newer.n_items, dtype=np.int32)
        snapshot.apply(Change(newer, added, *rows, position, False, extends=graph))
        graph = newer

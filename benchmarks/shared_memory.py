"""Parameters in shared memory beside one's own, slates and changes: `python -m benchmarks.shared_memory`.

Both in this process, in turn: what a call costs where its numbers lie, without gRPC and without other processes.
"""

import argparse
import os

import numpy as np

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.graph import Graph, Int32
from bandits.graph_edit import edges_of
from bandits.policies import PolicySettings
from benchmarks.events import small_catalogue
from benchmarks.measure import ROUNDS, Result, interleaved, machine, ratios
from server.processes.board import Board
from server.processes.publisher import Publisher
from server.processes.segment import Segment
from server.processes.shared_parameters import SharedSnapshot
from server.scoring import SlateRules
from server.snapshot import Parameters, Snapshot
from streams.change import Change

CANDIDATES, SLATE, K = 100, 10, 10
_CHANGED = 1_000  # items of a change
_RULES = SlateRules(PolicySettings(), 1, 0.0, 64)
_MODE = "randomized_ucb"


def run(*, items: int, clusters: int, calls: int, rounds: int) -> list[Result]:
    """CPU time of a slate of candidates, of one around a user, and of a change, by where the parameters are."""
    rng = np.random.default_rng(6)
    graph = small_catalogue(items, clusters, 32, rng)
    board, backend = Board.make(), choose_backend("numba")
    own, reader = Snapshot(backend), SharedSnapshot(backend, Board(os.dup(board.fd)), 0)
    shared = Publisher(
        board,
        policy=PolicySettings,
        compiled=True,
        first_number=1,
        on_segment=lambda segment: reader.go_to(Segment.attach(os.dup(segment.fd))),
    )
    full = _change(graph, np.arange(graph.n_items, dtype=np.int32), rng, full=True)
    own.apply(full)
    shared.apply(full)
    users = [_user(graph, rng) for _ in range(calls)]
    slates = [rng.choice(graph.n_items, CANDIDATES, replace=False).astype(np.int32) for _ in range(calls)]
    changes = [
        _change(graph, np.sort(rng.choice(graph.n_items, _CHANGED, replace=False)).astype(np.int32), rng)
        for _ in range(20)
    ]
    held = {"one process": own, "shared memory": reader}
    for snapshot in held.values():
        _around(_of(snapshot), users[:1])
    while not shared.copy_wished() or not _ready(own):
        _around(_of(own), users[:1])

    def touch(name: str) -> None:
        """What was not touched for a while costs its first user more."""
        _score(_of(held[name]), slates, users)

    scored = interleaved(
        {name: lambda _, s=snapshot: _score(_of(s), slates, users) for name, snapshot in held.items()},
        rounds=rounds,
        prepare=touch,
    )
    around = interleaved(
        {name: lambda _, s=snapshot: _around(_of(s), users) for name, snapshot in held.items()},
        rounds=rounds,
        prepare=lambda name: _around(_of(held[name]), users),
    )
    applied = interleaved(
        {
            "one process": lambda _: [own.apply(change) for change in changes],
            "shared memory": lambda _: [shared.apply(change) for change in changes],
        },
        rounds=rounds,
        prepare=touch,
    )
    return [
        *_results(f"slate of {CANDIDATES} candidates", scored, calls),
        *_results("slate around a user", around, calls),
        *_results(f"change of {_CHANGED:,} items", applied, len(changes)),
    ]


def _results(what: str, times: dict[str, list[float]], calls: int) -> list[Result]:
    each = [
        Result.of(f"{what}, {name}", [s / calls * 1e6 for s in seconds], "us") for name, seconds in times.items()
    ]
    return [*each, Result.of(f"{what}: shared / one", ratios(times["shared memory"], times["one process"]), "x")]


def _of(snapshot: Snapshot) -> Parameters:
    parameters = snapshot.current
    if parameters is None:
        raise RuntimeError("parameters: expected some to have been applied")
    return parameters


def _ready(own: Snapshot) -> bool:
    rows = _of(own)._cluster_rows
    return rows is not None and rows.ready


def _score(parameters: Parameters, slates: list[Int32], users: list[Context]) -> None:
    for items, user in zip(slates, users, strict=True):
        parameters.fill(items, user, mode=_MODE, slate_size=SLATE, seed=1, rules=_RULES)


def _around(parameters: Parameters, users: list[Context]) -> None:
    for user in users:
        parameters.fill_around(user, mode=_MODE, slate_size=SLATE, seed=1, rules=_RULES)


def _user(graph: Graph, rng: np.random.Generator) -> Context:
    clusters = np.sort(rng.choice(graph.n_clusters, K, replace=False)).astype(np.int32)
    weights = rng.random(K)
    return Context(clusters, weights / weights.sum())


def _change(graph: Graph, items: Int32, rng: np.random.Generator, *, full: bool = False) -> Change:
    edge_rows = rng.integers(1 << 10, 1 << 20, size=(len(edges_of(graph, items)), 3))
    item_rows = rng.integers(1, 1 << 12, size=(len(items), 1)) * np.array([[1, 1 << 10]])
    return Change(graph, items, edge_rows, item_rows, 1, full)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    quick = parser.parse_args().quick
    print(machine())
    sizes = {"items": 1_500, "clusters": 16} if quick else {"items": 200_000, "clusters": 4_000}
    for result in run(**sizes, calls=20 if quick else 1_000, rounds=2 if quick else ROUNDS):
        print(f"{result.name:<45} {result.value:>10.2f} {result.low:>10.2f} {result.high:>10.2f} {result.unit}")


if __name__ == "__main__":
    main()

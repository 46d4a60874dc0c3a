"""Processes that share the parameters' memory see whole states of one graph, as one process would."""

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edges_of, edited
from bandits.policy_settings import PolicySettings
from bandits.shortlist_numba import compile_shortlist
from bandits.sums import UNIT
from server.processes.board import Board
from server.processes.publisher import Publisher
from server.processes.reader_parts import FollowedRules, ReaderLoop
from server.processes.segment import BEGUN, DONE, Segment
from server.processes.shared_parameters import SharedSnapshot, WriterSnapshot
from server.rules import RulesInForce
from server.scoring import SlateRules, fill_compiled
from server.snapshot import Parameters, Snapshot, Torn
from streams.change import Change
from tests.server.processes.hammer import rows_of_value
from tests.server.serving import N_CLUSTERS, small_graph

EVERYWHERE = Context(np.arange(N_CLUSTERS, dtype=np.int32), np.full(N_CLUSTERS, 0.5))
HAMMER_S = 1.0
RULES = SlateRules(PolicySettings(), 1, 0.0, 1)


class Pair:
    """A writer and a reader of its memory, which knows no more than a file descriptor."""

    def __init__(self, backend: Any = "numpy") -> None:
        self.board = Board.make()
        self.backend = choose_backend(backend)
        self.reader = SharedSnapshot(self.backend, Board(os.dup(self.board.fd)), 0)
        self.segments: list[Segment] = []
        self.publisher = Publisher(
            self.board,
            policy=PolicySettings,
            compiled=backend == "numba",
            first_number=1,
            on_segment=self._hand_over,
        )
        self.writer = WriterSnapshot(self.backend, self.publisher)

    def _hand_over(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.reader.go_to(Segment.attach(os.dup(segment.fd)))


def assert_equal_graphs(got: Graph, wanted: Graph) -> None:
    """Number by number, and id by id."""
    assert got.version == wanted.version
    assert list(got.item_ids) == list(wanted.item_ids)
    for name in ("item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge", "item_hashes"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    assert np.array_equal(got.centroids, wanted.centroids)
    assert (got.published_ms is None) == (wanted.published_ms is None)
    if wanted.published_ms is not None:
        assert np.array_equal(got.published_ms, wanted.published_ms)
    assert (got.edits is None) == (wanted.edits is None)
    if got.edits is not None and wanted.edits is not None:
        assert dict(got.edits.numbers) == dict(wanted.edits.numbers)
        assert dict(got.edits.kept) == dict(wanted.edits.kept)
        assert np.array_equal(got.edits.live, wanted.edits.live)
        assert got.edits.attached.keys() == wanted.edits.attached.keys()
        for cluster, items in wanted.edits.attached.items():
            assert np.array_equal(got.edits.attached[cluster], items)


def random_edit(rng: np.random.Generator, graph: Graph, at: int) -> GraphEdit:
    """Some items added, some attached elsewhere, some retired."""
    known = sorted(graph.index)
    changed = rng.choice(known, size=min(len(known), int(rng.integers(0, 3))), replace=False).tolist()
    added = [f"new-{at}-{k}" for k in range(int(rng.integers(0, 3)))]
    retired = rng.choice(known, size=min(len(known), int(rng.integers(0, 3))), replace=False).tolist()
    ids = [*changed, *added]
    rows = [rng.choice(N_CLUSTERS, size=int(rng.integers(1, 4)), replace=False) for _ in ids]
    times = [int(at)] * len(ids) if rng.random() < 0.5 else []
    return GraphEdit(f"e{at}", ids, rows, times, [item for item in retired if item not in ids])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_reader_holds_what_one_process_would(backend: Any) -> None:
    """After any rows, edits and switches, graph, sums, position and totals equal those of a snapshot of its own."""
    rng = np.random.default_rng(int(os.environ.get("FRESHET_TEST_SEED", "11")))
    pair, model = Pair(backend), Snapshot(choose_backend(backend))
    graph = small_graph()
    for at in range(1, 120):
        what = rng.random()
        if at == 1 or what < 0.03:
            graph = small_graph(f"v{at}") if what < 0.02 or at == 1 else graph  # the same graph, handed over anew
            change = rows_of_value(graph, at, full=True)
        elif what < 0.35:
            old, graph = graph, edited(graph, random_edit(rng, graph, at))
            numbers = np.arange(old.n_items, graph.n_items, dtype=np.int32)
            edge_rows = rng.integers(1, 1 << 40, size=(len(edges_of(graph, numbers)), 3))
            item_rows = rng.integers(1, 1 << 20, size=(len(numbers), 2))
            change = Change(graph, numbers, edge_rows, item_rows, at, full=False, extends=old)
        else:
            items = rng.choice(graph.n_items, size=int(rng.integers(0, 20)), replace=False)
            change = rows_of_value(graph, at, items=items)
        pair.publisher.apply(change)
        model.apply(change)
        wanted = model.current
        assert wanted is not None
        for got in (pair.reader.current, pair.writer.current):
            assert got is not None
            assert_equal_graphs(got.graph, graph)
            assert got.position == wanted.position == at
            assert got.totals == wanted.totals
            everyone = np.flatnonzero(graph.edits.live) if graph.edits else np.arange(graph.n_items)
            ours = got.gather(everyone.astype(np.int32), EVERYWHERE).sums
            theirs = wanted.gather(everyone.astype(np.int32), EVERYWHERE).sums
            for name in ("edge", "a", "d", "b", "n", "s", "keys"):
                assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_slates_are_filled_from_shared_memory_as_from_ones_own() -> None:
    """Compiled slates, of candidates and around a user, are those of a snapshot of one process, on both sides."""
    pair, model = Pair("numba"), Snapshot(choose_backend("numba"))
    graph = small_graph()
    rules = SlateRules(PolicySettings(), 1, 0.1, 16)
    for value in (1, 7, 9):
        change = rows_of_value(graph, value << 20, full=value == 1, items=None if value == 1 else [1, value])
        pair.publisher.apply(change)
        model.apply(change)
        got, wanted = pair.reader.current, model.current
        assert got is not None
        assert wanted is not None
        asked: dict[str, Any] = {"mode": "thompson", "slate_size": 5, "seed": value, "rules": rules}
        items = np.arange(graph.n_items, dtype=np.int32)
        ours, theirs = got.fill(items, EVERYWHERE, **asked), wanted.fill(items, EVERYWHERE, **asked)
        assert ours[1] == theirs[1]
        assert np.array_equal(ours[0].score, theirs[0].score)
        around, expected = got.fill_around(EVERYWHERE, **asked), wanted.fill_around(EVERYWHERE, **asked)
        assert around is not None
        assert expected is not None
        assert np.array_equal(around[0], expected[0])
        assert around[3] == expected[3] == value << 20


def test_a_reader_that_sleeps_holds_up_nothing_and_finds_out() -> None:
    """The writer goes on past a reader that holds a state, after a short wait; the reading is refused as torn."""
    pair, graph = Pair(), small_graph()
    pair.publisher.apply(rows_of_value(graph, 0, full=True))
    parameters = pair.reader.current
    assert parameters is not None
    with parameters.lock:  # one state later its side still lies still
        pair.publisher.apply(rows_of_value(graph, 1))
        assert parameters.position == 0

    def read_while_it_is_written_over() -> None:
        with parameters.lock:
            for value in range(2, 6):
                pair.publisher.apply(rows_of_value(graph, value))

    with pytest.raises(Torn):
        read_while_it_is_written_over()
    assert parameters.gather(np.arange(1, dtype=np.int32), EVERYWHERE).position == 5


def test_a_write_that_was_cut_off_is_not_seen() -> None:
    """A writer that dies while it writes rows leaves the last whole state, to old readers and to new ones."""
    pair, graph = Pair(), small_graph()
    pair.publisher.apply(rows_of_value(graph, 3, full=True))
    pair.publisher.apply(rows_of_value(graph, 4))
    segment = pair.segments[-1]
    epoch = segment.words[DONE]
    segment.words[BEGUN] = epoch + 1
    segment.arrays[f"edge{(epoch + 1) & 1}"][:50] = -1
    late = SharedSnapshot(pair.backend, pair.board, 1)
    late.go_to(Segment.attach(os.dup(segment.fd)))
    for snapshot in (pair.reader, late):
        parameters = snapshot.current
        assert parameters is not None
        reading = parameters.gather(np.arange(graph.n_items, dtype=np.int32), EVERYWHERE)
        assert reading.position == 4
        assert np.unique(reading.sums.n).tolist() == [4]
        assert np.unique(np.rint(reading.sums.a[reading.sums.edge] * UNIT)).tolist() == [4]


def test_a_silent_writer_makes_its_readers_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the writer is alive they are as current as it says; when it is silent nobody knows where the end is."""
    pair = Pair()
    pair.publisher.apply(rows_of_value(small_graph(), 3, full=True))
    loop = ReaderLoop(
        impressions=lambda batch: Future(),
        clicks=lambda batch: Future(),
        close=lambda grace_s: None,
        snapshot=pair.reader,
        board=pair.board,
        backend="numpy",
        queued=lambda: 0,
    )
    ends = []
    for ledger_end in (3, 8):
        pair.board.beat(ledger_end=ledger_end, frozen=False)
        ends.append(loop.status().ledger_end)
    monkeypatch.setattr("server.processes.reader_parts.SILENT_S", 0.0)
    ends.append(loop.status().ledger_end)
    assert ends == [3, 8, 4]


def test_fitted_rules_are_followed_whole() -> None:
    """What the writer has fitted is in the rules of the next reply and in the name of its policy."""
    board = Board.make()
    rules = RulesInForce(SlateRules(PolicySettings(), 1, 0.0, 16), fit_prior=True, fit_pooled_mean=True)
    followed = FollowedRules(rules, board)
    assert followed.current is rules.current
    board.tell_fitted((2.0, 5.0, 0.25))
    policy = followed.current.slate.policy
    assert (policy.beta_prior, policy.pooled_mean) == ((2.0, 5.0), 0.25)
    assert followed.current is followed.current
    assert "0.25" in followed.current.names["randomized_ucb"]


def test_an_edit_without_room_goes_to_another_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the room for edits is used up, readers are sent to a segment that has some, and nothing is lost."""
    monkeypatch.setattr("server.processes.segment._LEAST_ROOM", 2)
    pair, model = Pair(), Snapshot(choose_backend("numpy"))
    graph = small_graph(n_items=3)
    for snapshot in (pair.writer, model):
        snapshot.apply(rows_of_value(graph, 1, full=True))
    for at in range(2, 12):
        old = graph
        graph = edited(graph, GraphEdit(f"e{at}", [f"new-{at}"], [np.array([1, 2])]))
        change = rows_of_value(graph, at, items=[old.n_items])
        change = Change(graph, change.items, change.edge_rows, change.item_rows, at, full=False, extends=old)
        for snapshot in (pair.writer, model):
            snapshot.apply(change)
    got, wanted = pair.reader.current, model.current
    assert got is not None
    assert wanted is not None
    assert len(pair.segments) > 1
    assert_equal_graphs(got.graph, graph)
    assert got.totals == wanted.totals
    everyone = np.arange(graph.n_items, dtype=np.int32)
    assert np.array_equal(got.gather(everyone, EVERYWHERE).sums.a, wanted.gather(everyone, EVERYWHERE).sums.a)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_no_reader_sees_torn_rows_while_another_process_writes(backend: Any) -> None:
    """A writer keeps all sums of all rows equal to the position, then is killed: readings agree throughout."""
    board = Board.make()
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.server.processes.hammer", str(board.fd), str(theirs.fileno()), backend]
    with subprocess.Popen(command, pass_fds=(board.fd, theirs.fileno())) as writer:
        try:
            ours.settimeout(30)
            fd = socket.recv_fds(ours, 1, 1)[1][0]
            snapshot = SharedSnapshot(choose_backend(backend), board, 0)
            snapshot.go_to(Segment.attach(fd))
            parameters = snapshot.current
            assert parameters is not None
            if parameters.compiles:
                compile_shortlist()  # or it is read from the cache, which takes a while too
                filled_alike(parameters)
            positions, wrong = hammer(snapshot, HAMMER_S)
            writer.kill()
            writer.wait()
            more, still_wrong = hammer(snapshot, 0.05)
        finally:
            writer.kill()
            ours.close()
            theirs.close()
    assert wrong == still_wrong == []
    assert len(set(positions)) > 10
    assert len(set(more)) == 1


def filled_alike(parameters: Parameters) -> bool:
    """Whether slates of one state are the same from its rows and from its sums."""
    items = np.arange(parameters.graph.n_items, dtype=np.int32)
    asked: dict[str, Any] = {"mode": "ucb", "slate_size": 8, "seed": 1, "rules": RULES}
    policy = RULES.compiled["ucb"]
    try:
        with parameters.lock:
            told = parameters.fill_held(items, EVERYWHERE, **asked)
            slates = parameters.compiled_slates()
            made = fill_compiled(slates, items, EVERYWHERE, policy, slate_size=8, seed=1, redraws=1)
            around = parameters._slates_around().fill_around(
                EVERYWHERE, policy, slate_size=8, seed=1, draws=lambda _: 1
            )
    except Torn:
        return True
    same = np.array_equal(made.score, told.score) and np.array_equal(around[1][0], told.score)
    return same and np.array_equal(made.chosen, told.chosen) and np.array_equal(around[0], told.chosen)


def hammer(snapshot: SharedSnapshot, seconds: float) -> tuple[list[int], list[object]]:
    """Positions of what two threads have read, and readings whose numbers did not agree with them."""
    positions: list[int] = []
    wrong: list[object] = []
    until_s = time.monotonic() + seconds

    def read() -> None:
        while time.monotonic() < until_s:
            parameters = snapshot.current
            assert parameters is not None
            everyone = np.arange(parameters.graph.n_items, dtype=np.int32)
            try:
                reading = parameters.gather(everyone, EVERYWHERE)
            except Torn:
                continue
            sums, edge = reading.sums, reading.sums.edge
            values = {*np.unique(sums.n).tolist(), *np.unique(np.rint(sums.a[edge] * UNIT)).tolist()}
            values |= {*np.unique(np.rint(sums.b[edge] * UNIT**2)).tolist()}
            positions.append(reading.position)
            if parameters.compiles and not filled_alike(parameters):
                wrong.append("slates")
            if values != {reading.position}:
                wrong.append((values, reading.position))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return positions, wrong

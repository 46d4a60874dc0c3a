"""The embedded loop: when a promise is kept, when it is refused, what a restart finds."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph import build_graph
from bandits.sums import Sums, state_hash
from streams.change import Change
from streams.embedded import EmbeddedLoop, LoopFailed, LoopLimits, QueueFull
from streams.store import CLICKS, IMPRESSIONS, LEDGER, ROW, Store, StoreError
from streams.verify import verify_store
from tests.bandits.event_columns import Event
from tests.streams.loops import (
    ITEMS,
    NOW_MS,
    clicked,
    clicks,
    impressions,
    make_graph,
    model_hash,
    offer,
    open_loop,
    settle,
    shown,
    started,
)

EVENTS: list[Event] = [
    event
    for n in range(20)
    for event in (shown(f"r{n}", ITEMS[n % 6], ITEMS[n % 6 - 1]), clicked(f"r{n % 7}", ITEMS[n % 6]), clicked("x"))
]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[EmbeddedLoop]:
    """A loop at work, stopped in the end."""
    loop = started(tmp_path)
    yield loop
    loop.stop(grace_s=10)


class Gate:
    """An `on_change` that holds the writer until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.closed = False

    def __call__(self, change: Change) -> None:
        if self.closed:
            self.entered.set()
            assert self.open.wait(30)

    def hold(self, loop: EmbeddedLoop) -> "Future[None]":
        """Let the writer run into the gate with one event."""
        self.closed = True
        (future,) = offer(loop, shown("gate"))
        assert self.entered.wait(30)
        self.closed = False
        return future


def check_verified(folder: Path) -> str:
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    return result.state_hash


def test_the_sums_are_those_of_the_dict_model(tmp_path: Path) -> None:
    """Whatever was acknowledged is learned once: live, after reopening, and by a fold of the ledger."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    expected = model_hash(make_graph(), EVENTS)
    assert loop.state_hash() == expected
    loop.stop(grace_s=10)
    again = started(tmp_path)
    assert again.state_hash() == expected
    again.stop(grace_s=10)
    assert check_verified(tmp_path) == expected


def test_a_promise_is_kept_only_when_it_is_on_disk_and_handed_over(tmp_path: Path) -> None:
    """When the future is done, a reader of the store finds event, ledger and row, and `on_change` has the rows."""
    handed: list[Change] = []
    loop = started(tmp_path, handed.append)
    for number, future in enumerate(offer(loop, *EVENTS[:6])):
        future.result(timeout=30)
        view = Store(tmp_path / "store", read_only=True)
        assert len([*view.numbered(IMPRESSIONS), *view.numbered(CLICKS)]) >= number + 1
        assert len(list(view.numbered(LEDGER))) == view.head().ledger_end == view.head().applied_position
        assert view.get(ROW, EVENTS[0].items[0].encode())  # type: ignore[union-attr]
        view.close()
        assert handed[-1].position >= 1
    sums = Sums.zeros(make_graph())
    for change in handed:
        change.put_into(sums)
    assert state_hash(make_graph(), sums) == loop.state_hash()
    loop.stop(grace_s=10)


def test_events_that_wait_together_become_one_micro_batch(tmp_path: Path) -> None:
    """Up to the limit; an offer is never divided."""
    gate = Gate()
    loop = started(tmp_path, gate, limits=LoopLimits(max_batch_events=10))
    first = gate.hold(loop)
    futures = offer(loop, *(shown(f"r{n}", *ITEMS[:4]) for n in range(5)))
    gate.open.set()
    settle([first, *futures])
    assert loop.status().ledger_end == 1 + 3  # 2 + 2 + 1 slates of four
    loop.stop(grace_s=10)


def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path) -> None:
    """Nothing is taken beyond the bound, except that one offer alone always fits; what was taken is kept."""
    gate = Gate()
    loop = started(tmp_path, gate, limits=LoopLimits(max_queued_events=5, retry_after_ms=321))
    first = gate.hold(loop)
    taken = offer(loop, shown("a", *ITEMS[:3]), clicked("a"), clicked("b"))
    with pytest.raises(QueueFull, match="321 ms") as caught:
        offer(loop, clicked("c"))
    assert caught.value.retry_after_ms == 321
    assert loop.status().queued_events == 5
    gate.open.set()
    settle([first, *taken])
    settle(offer(loop, shown("big", *ITEMS)))
    assert loop.status().counts["impressions_accepted"] == 1 + 3 + 6
    loop.stop(grace_s=10)


def test_stopping_writes_what_was_accepted(tmp_path: Path) -> None:
    """Every future is done with success, and a restart finds all of it."""
    loop = started(tmp_path)
    futures = offer(loop, *EVENTS)
    loop.stop(grace_s=30)
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(LoopFailed, match="the server is stopping"):
        offer(loop, shown("late"))
    again = started(tmp_path)
    assert again.state_hash() == model_hash(make_graph(), EVENTS)
    again.stop(grace_s=10)


def test_stopping_out_of_time_refuses_what_is_left(tmp_path: Path) -> None:
    """What the writer holds is finished; what it has not taken is refused aloud and is not in the store."""
    gate = Gate()
    loop = started(tmp_path, gate)
    first = gate.hold(loop)
    left = offer(loop, shown("left"))
    threading.Timer(0.2, gate.open.set).start()
    loop.stop(grace_s=0.0)
    assert first.exception(timeout=5) is None
    assert isinstance(left[0].exception(timeout=5), LoopFailed)
    again = started(tmp_path)
    assert again.status().counts["impressions_accepted"] == 1
    again.stop(grace_s=10)


def test_a_loop_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    """A start-up that fails elsewhere frees the store."""
    open_loop(tmp_path).stop(grace_s=1)
    open_loop(tmp_path).stop(grace_s=1)


def test_a_caller_that_gives_up_does_not_stop_the_loop(tmp_path: Path) -> None:
    """A cancelled future is the caller's business: its events are taken, others are served."""
    gate = Gate()
    loop = started(tmp_path, gate)
    first = gate.hold(loop)
    given_up, kept = offer(loop, shown("a"), shown("b"))
    assert given_up.cancel()
    gate.open.set()
    settle([first, kept, *offer(loop, shown("c"))])
    assert loop.status().counts["impressions_accepted"] == 4
    assert loop.status().failed is None
    loop.stop(grace_s=10)


def test_an_empty_offer_is_done_at_once(loop: EmbeddedLoop) -> None:
    """All elements may have been refused before: there is nothing to write and no reason to fail."""
    settle([loop.offer_impressions(impressions()), loop.offer_clicks(clicks())])
    settle(offer(loop, shown("a")))
    assert (loop.status().ledger_end, loop.status().failed) == (1, None)


def test_freezing_keeps_feedback_for_later(tmp_path: Path) -> None:
    """Frozen: sums stand still, across a restart too; resumed: every fact is learned once."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS[:20]))
    frozen_hash = loop.state_hash()
    loop.freeze(True)
    settle(offer(loop, *EVENTS[20:40]))
    assert loop.state_hash() == frozen_hash
    loop.stop(grace_s=10)
    handed: list[Change] = []
    loop = started(tmp_path, handed.append)
    assert loop.status().frozen
    assert loop.state_hash() == frozen_hash
    settle(offer(loop, *EVENTS[40:50]))
    assert loop.status().applied_position < loop.status().ledger_end
    loop.freeze(False)
    assert loop.state_hash() == model_hash(make_graph(), EVENTS[:50])
    assert handed[-1].position == loop.status().applied_position == loop.status().ledger_end
    settle(offer(loop, *EVENTS[50:]))
    assert loop.state_hash() == model_hash(make_graph(), EVENTS)
    loop.stop(grace_s=10)
    check_verified(tmp_path)


def test_time_never_runs_backwards(tmp_path: Path) -> None:
    """A clock that is set back gives ingestion times that stand still, so windows stay what they are."""
    times = iter([NOW_MS, NOW_MS - 10**9, *[NOW_MS + 1] * 10])
    loop = started(tmp_path, clock_ms=lambda: next(times))
    for event in (shown("a"), clicked("a"), clicked("a")):
        settle(offer(loop, event))
    counts = loop.status().counts
    assert (counts["clicks_joined"], counts["clicks_duplicate"]) == (1, 1)
    loop.stop(grace_s=10)
    check_verified(tmp_path)


class DiskFull:
    """A store's database that cannot be written any more."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def write(self, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_a_full_disk_fails_every_promise_and_loses_nothing(tmp_path: Path) -> None:
    """All waiting futures fail with the reason, the loop stops, a restart has the last committed state."""
    gate = Gate()
    loop = started(tmp_path, gate)
    settle(offer(loop, *EVENTS[:30]))
    first = gate.hold(loop)
    futures = offer(loop, *EVENTS[30:])
    committed = [*EVENTS[:30], shown("gate")]
    loop._store._db = DiskFull(loop._store._db)
    gate.open.set()
    settle([first])
    for future in futures:
        with pytest.raises(LoopFailed, match=r"^the store in .* cannot be written: .*No space left on device"):
            future.result(timeout=30)
    assert "No space left" in str(loop.status().failed)
    for ask in (lambda: offer(loop, shown("more")), lambda: loop.freeze(True), loop.state_hash):
        with pytest.raises(LoopFailed, match="No space left"):
            ask()
    loop.stop(grace_s=10)
    again = started(tmp_path)
    assert again.state_hash() == model_hash(make_graph(), committed)
    settle(offer(again, *EVENTS[30:]))
    assert again.state_hash() == model_hash(make_graph(), [*committed, *EVENTS[30:]])
    again.stop(grace_s=10)
    check_verified(tmp_path)


@pytest.mark.parametrize("command", ["freeze", "load_graph"])
def test_a_command_that_cannot_be_written_stops_the_loop(tmp_path: Path, command: str) -> None:
    """The caller hears it, and memory that is ahead of the disk is not served from any longer."""
    loop = started(tmp_path)
    settle(offer(loop, *EVENTS))
    loop._store._db = DiskFull(loop._store._db)
    with pytest.raises(StoreError, match="No space left"):
        loop.freeze(True) if command == "freeze" else loop.load_graph(make_graph("v2"))
    with pytest.raises(LoopFailed, match="No space left"):
        offer(loop, shown("more"))
    loop.stop(grace_s=10)
    again = started(tmp_path)
    assert (again.status().frozen, again.graph.version) == (False, "v1")  # type: ignore[union-attr]
    assert again.state_hash() == model_hash(make_graph(), EVENTS)
    again.stop(grace_s=10)


def test_a_failing_reader_of_changes_stops_the_loop(tmp_path: Path) -> None:
    """What the server could not take over is on disk; a restart hands it over in full."""
    fail = [False]

    def on_change(change: Change) -> None:
        if fail[0]:
            raise ValueError("no")

    loop = started(tmp_path, on_change)
    fail[0] = True
    with pytest.raises(LoopFailed, match="ValueError: no"):
        settle(offer(loop, shown("a")))
    loop.stop(grace_s=10)
    fail[0] = False
    again = started(tmp_path, on_change)
    assert again.status().counts["impressions_accepted"] == 1
    again.stop(grace_s=10)


def test_feedback_before_a_graph_is_learned_when_it_comes(tmp_path: Path) -> None:
    """The ledger holds it meanwhile."""
    loop = started(tmp_path, graph=None)
    assert loop.graph is None
    settle(offer(loop, *EVENTS))
    assert loop.state_hash() == "0" * 32
    graph = make_graph()
    switch = loop.load_graph(graph)
    assert (switch.kept, switch.added, switch.dropped) == (0, graph.n_edges, 0)
    assert loop.state_hash() == model_hash(graph, EVENTS)
    loop.stop(grace_s=10)
    check_verified(tmp_path)


def test_a_graph_without_items_takes_feedback(tmp_path: Path) -> None:
    """A corpus may start empty and be filled later: feedback of unknown items is no error."""
    empty = build_graph(version="v0", centroids=[], n_clusters=8, item_ids=[], edge_item=[], edge_cluster=[])
    loop = started(tmp_path, graph=empty)
    settle(offer(loop, *EVENTS[:10]))
    loop.load_graph(make_graph())
    settle(offer(loop, shown("new")))
    live = loop.state_hash()
    assert np.count_nonzero(loop._committer.learner.sums.edge) > 0  # type: ignore[union-attr]
    loop.stop(grace_s=10)
    assert check_verified(tmp_path) == live

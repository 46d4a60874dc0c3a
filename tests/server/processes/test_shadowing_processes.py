"""Shadow policies of several processes stand as those of one would: one account of slates and clicks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from server.logs import make_logger
from server.processes.shadow_notes import MAX_NOTE_BYTES, NotesIn, NotesOut, make_pair
from server.processes.supervisor import Supervisor
from server.shadow.awaited import AwaitedRewards
from server.shadow.pending import PendingSlate
from tests.server.messages import click, clicks, score_request
from tests.server.processes.pages import scraped, standings, total
from tests.server.processes.servers import (
    CHANNELS,
    PATIENCE_S,
    Callers,
    kill,
    patiently,
    server_of_processes,
    until,
    wait_for_another,
)

SHADOW = {"policies": [{"name": "greedy", "policy": {"mode": "exploit"}}, {"name": "same"}], "share": 1.0}
WINDOW_MS = 1_000


class Told:
    """Notes of one process, and the table that they fill, read when the test says so."""

    def __init__(self, *, began_ms: int = 0) -> None:
        self.reading, self.writing = make_pair()
        self.now_ms = 10_000
        self.awaited = AwaitedRewards(
            ["one", "two"],
            rule=JoinRule(window_ms=WINDOW_MS),
            max_pending=100,
            window_ms=WINDOW_MS,
            clock_ms=lambda: self.now_ms,
            log=make_logger("error"),
        )
        self.out = NotesOut(self.writing)
        self.notes = NotesIn(self.reading, self.awaited, policies=2, began_ms=began_ms)

    def deliver(self) -> None:
        """Take all that was written."""
        self.reading.setblocking(False)
        try:
            while True:
                self.notes.take(self.reading.recv(MAX_NOTE_BYTES))
        except BlockingIOError:
            pass


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.reading.close()
    made.writing.close()


def slate(request_id: str = "r", *, shown_ms: int = 10_000) -> PendingSlate:
    """Of two items, scored by two policies."""
    return PendingSlate(request_id, shown_ms, ("a", "b"), np.array([[0.5, 1.0], [2.0, 0.25]]))


def test_a_slate_is_the_same_after_it_was_told_of(told: Told) -> None:
    """Clicks between the notes that it was shown and that it was scored count, and so do its weights."""
    shown = PendingSlate("r", 10_000)
    assert told.out.shown(shown)
    told.deliver()
    told.awaited.clicked([events_pb2.Click(request_id="r", item_id="b")])
    told.out.weighed(slate())
    told.deliver()
    told.now_ms += WINDOW_MS
    told.awaited.close_due()
    one, two = told.awaited.standings()
    assert (one.slates, one.logged, one.mean_weight, two.max_weight) == (1, 0.5, 0.75, 2.0)
    assert told.awaited.outcomes()["closed"] == 1


def test_what_was_shown_before_clicks_were_heard_is_passed_over() -> None:
    """Its clicks may be missing, and rewards that are missing are not rewards of 0."""
    told = Told(began_ms=10_001)
    told.out.shown(slate(shown_ms=10_000))
    told.out.shown(slate("later", shown_ms=10_001))
    told.deliver()
    assert told.awaited.pending == 1


def test_a_slate_of_another_time_is_not_meant(told: Told) -> None:
    """Notes of a request id that came twice do not reach the slate that has its place now."""
    told.out.shown(slate(shown_ms=10_002))
    told.out.weighed(slate(shown_ms=10_000))
    told.out.given_up(slate(shown_ms=10_000))
    told.deliver()
    assert told.awaited.pending == 1
    told.out.given_up(slate(shown_ms=10_002))
    told.deliver()
    assert told.awaited.pending == 0


def test_a_call_does_not_wait_for_who_reads_no_notes(told: Told) -> None:
    """Once there is no room, and where a note is too long, the slate is dropped and counted."""
    refused = sum(not told.out.shown(slate(f"r{number}")) for number in range(20_000))
    assert 0 < refused < 20_000
    long = PendingSlate("x" * MAX_NOTE_BYTES, 1)
    told.deliver()
    assert not told.out.shown(long)
    assert told.out.outcomes() == {"dropped": refused + 1}


def shown_and_clicked(callers: Callers, prefix: str) -> None:
    """A slate through every connection; of every second one the first item is clicked, through another."""
    for at, stub in enumerate(callers.recommenders):
        request_id = f"{prefix}-{at}"
        asked = score_request("item-1", "item-2", "item-3", request_id=request_id, slate_size=2)
        reply = stub.Score(asked, timeout=PATIENCE_S, wait_for_ready=True)
        if at % 2 == 0:
            clicked = clicks(click(request_id, reply.items[0].item_id))
            patiently(callers.feedback[at - 3].LogClicks, clicked)


def closed(server: Supervisor) -> float:
    return total(scraped(server), "freshet_shadow_slates_total", outcome="closed")


def test_slates_of_all_processes_are_one_account(tmp_path: Path) -> None:
    """Shown by one process and clicked through another they count once; killed processes spoil no estimate."""
    shadow = {**SHADOW, "window_ms": 3_000}
    with server_of_processes(tmp_path, shadow=shadow, policy={"mode": "uniform"}) as (server, callers):
        shown_and_clicked(callers, "first")
        until(lambda: closed(server) == CHANNELS)
        until(lambda: [one["slates"] for one in standings(server)] == [CHANNELS] * 2)
        greedy, same = standings(server)
        assert (greedy["name"], same["name"]) == ("greedy", "same")
        assert same["logged"] == pytest.approx(0.25)
        assert same["effective_slates"] == pytest.approx(CHANNELS)

        reader = kill(server, "reader-1")
        wait_for_another(server, "reader-1", reader)
        shown_and_clicked(callers, "second")
        until(lambda: [one["slates"] for one in standings(server)] == [2 * CHANNELS] * 2)
        assert standings(server)[1]["logged"] == pytest.approx(0.25)

        writer = kill(server, "writer")
        wait_for_another(server, "writer", writer)
        patiently(callers.feedback[0].LogClicks, clicks(click("nobody", "item-1")))
        shown_and_clicked(callers, "third")
        until(lambda: [one["slates"] for one in standings(server)] == [CHANNELS] * 2)  # estimates begin anew
        assert standings(server)[1]["logged"] == pytest.approx(0.25)
        until(lambda: closed(server) == 3 * CHANNELS)

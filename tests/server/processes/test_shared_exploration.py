"""What serving processes explore is counted together: budgets of surfaces, and first impressions of new items."""

import os

import numpy as np
import pytest

from bandits.backend import choose_backend
from server.budget_windows import OwnSpending
from server.first_impressions import FirstImpressions
from server.processes.board import Board
from server.processes.shared_showings import ENTRIES, SharedShowings
from server.processes.shared_spending import ROWS, SharedSpending
from server.snapshot import Parameters
from tests.server.processes.hammer import rows_of_value
from tests.server.serving import small_graph

PROCESSES = 3
WINDOW_MS = 100


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board() -> Board:
    return Board.make()


def spending(board: Board, reader: int, clock: Clock) -> SharedSpending:
    own = Board(os.dup(board.fd))
    return SharedSpending(own, reader, processes=PROCESSES, window_ms=WINDOW_MS, clock_ms=clock)


def test_processes_spend_as_one_would(board: Board, clock: Clock) -> None:
    """Whoever spends and whenever, all of them know of what one process would know of, also after a restart."""
    rng = np.random.default_rng(int(os.environ.get("FRESHET_TEST_SEED", "5")))
    model = OwnSpending(window_ms=WINDOW_MS, clock_ms=clock)
    processes = [spending(board, reader, clock) for reader in range(PROCESSES)]
    for _ in range(600):
        clock.ms += int(rng.choice([0, 1, 7, 60, 250], p=[0.5, 0.3, 0.1, 0.08, 0.02]))
        reader, surface = int(rng.integers(PROCESSES)), f"surface-{rng.integers(4)}"
        what = rng.random()
        if what < 0.05:
            processes[reader] = spending(board, reader, clock)
        elif what < 0.7:
            items = int(rng.integers(0, 10))
            processes[reader].spend(surface, items)
            model.spend(surface, items)
        assert [process.spent(surface) for process in processes] == [model.spent(surface)] * PROCESSES


def test_windows_that_two_processes_begin_at_once_are_one(board: Board, clock: Clock) -> None:
    """Neither counts for nothing, and both end when the later one does."""
    other = spending(board, 1, clock)

    def interrupted() -> int:
        nonlocal other_is_due
        if other_is_due:
            other_is_due = False
            clock.ms += 1
            other.spend("home", 5)
            return clock.ms - 1
        return clock.ms

    other_is_due = True
    one = SharedSpending(board, 0, processes=PROCESSES, window_ms=WINDOW_MS, clock_ms=interrupted)
    one.spend("home", 3)
    assert (one.spent("home"), other.spent("home")) == (8, 8)
    clock.ms += WINDOW_MS - 1
    one.spend("home", 2)
    assert other.spent("home") == 10
    clock.ms += 1
    assert (one.spent("home"), other.spent("home")) == (0, 0)


def test_surfaces_of_processes_that_have_ended_make_room(board: Board, clock: Clock) -> None:
    """With more surfaces than rows the oldest go, and what is spent now is counted, for all to see."""
    watching, one = spending(board, 1, clock), spending(board, 0, clock)
    for number in range(ROWS + 40):
        clock.ms += 1
        if number % 50 == 0:
            one = spending(board, 0, clock)
        one.spend(f"s{number}", 3)
        one.spend(f"s{number}", 2)
        assert watching.spent(f"s{number}") == 5


def test_what_one_process_shows_the_others_hear_of_once(board: Board) -> None:
    """Under the same graph alone, whatever edits of it there are; nobody hears what was told before it began."""
    one, other = (SharedShowings(board, reader, processes=PROCESSES) for reader in range(2))
    graph = small_graph()
    one.tell(graph, np.array([3, 5]), np.array([0, 2]))
    late = SharedShowings(board, 2, processes=PROCESSES)
    one.tell(graph, np.array([7]), np.array([1 << 40]))
    heard = other.hear(graph)
    assert [column.tolist() for column in heard] == [[3, 5, 7], [0, 2, (1 << 15) - 1]]
    assert [len(column) for column in other.hear(graph)] == [0, 0]
    assert late.hear(graph)[0].tolist() == [7]
    assert len(one.hear(graph)[0]) == 0
    one.tell(graph, np.array([1]), np.array([0]))
    assert len(other.hear(small_graph("v2"))[0]) == 0


def test_who_is_overtaken_hears_the_newest(board: Board) -> None:
    """A process that did not listen for a whole ring goes on with what is still there."""
    one, other = (SharedShowings(board, reader, processes=PROCESSES) for reader in range(2))
    graph = small_graph()
    for first in range(0, ENTRIES + 1_000, 500):
        numbers = np.arange(first, first + 500)
        one.tell(graph, numbers, np.zeros(500, np.int64))
    items, _ = other.hear(graph)
    assert (len(items), int(items[-1])) == (ENTRIES, int(one._own[0]) - 1)


def test_an_item_is_owed_no_more_once_any_process_has_shown_it(board: Board, clock: Clock) -> None:
    """Shown three times by one, it is owed none in another, before any row says so."""
    graph = small_graph()
    parameters = Parameters.of(rows_of_value(graph, 0, full=True), choose_backend("numpy"))
    processes = [
        FirstImpressions(
            3,
            hold_ms=1_000,
            clock_ms=clock,
            elsewhere=SharedShowings(board, reader, processes=PROCESSES),
        )
        for reader in range(PROCESSES)
    ]
    for process in processes:
        process.look(parameters)
    item, nothing = np.array([4], np.int32), np.zeros(1)
    for process in (processes[0], processes[1], processes[1]):
        assert processes[2].owed(graph, item, nothing) is not None
        process.show(graph, item, nothing)
    assert [process.owed(graph, item, nothing) for process in processes] == [None] * PROCESSES
    processes[2].look(parameters)
    assert processes[2].in_flight == 3

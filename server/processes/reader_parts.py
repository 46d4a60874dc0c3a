"""What a serving process has in place of a loop and of rules that it fits: both are the writer's."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn

from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2
from server.processes.board import Board
from server.rules import NamedRules, RulesInForce
from server.snapshot import Parameters, Snapshot
from streams.embedded import LoopFailed, LoopStatus
from streams.graph_switching import GraphSwitch
from streams.overlap_folder import StoredOverlap

SILENT_S = 3.0  # the writer says every quarter of a second that it is alive


class ReaderLoop:
    """The writer's loop as its readers know it; has the methods of `server.loops.Loop`.

    Args:
        impressions, clicks: take feedback, as the loop's `offer_impressions` and `offer_clicks`.
        close: ends that, within the seconds that it is given.
        snapshot: the parameters served.
        board: what the writer says.
        backend: name of it.
        queued: events that wait within this process.
    """

    def __init__(
        self,
        *,
        impressions: Callable[[events_pb2.ImpressionBatch], "Future[None]"],
        clicks: Callable[[events_pb2.ClickBatch], "Future[None]"],
        close: Callable[[float], None],
        snapshot: Snapshot,
        board: Board,
        backend: str,
        queued: Callable[[], int],
    ) -> None:
        self.offer_impressions = impressions
        self.offer_clicks = clicks
        self._close = close
        self._snapshot = snapshot
        self._board = board
        self._backend = backend
        self._queued = queued

    @property
    def graph(self) -> Graph | None:
        """The graph served."""
        parameters = self._snapshot.current
        return parameters.graph if parameters else None

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self, *, grace_s: float) -> None:
        """Send what was accepted."""
        self._close(grace_s)

    def freeze(self, frozen: bool) -> None:
        """Refused."""
        _refuse()

    def load_graph(self, graph: Graph, overlap: StoredOverlap | None = None) -> GraphSwitch:
        """Refused."""
        _refuse()

    def has_graph(self, version: str) -> bool:
        """Refused."""
        _refuse()

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Refused."""
        _refuse()

    def state_hash(self) -> str:
        """Refused."""
        _refuse()

    def status(self) -> LoopStatus:
        """What the writer says; one beyond the position while it is silent, as the end is not known then."""
        parameters = self._snapshot.current
        position = parameters.position if parameters else 0
        heard = self._board.heard(within_s=SILENT_S)
        ledger_end, frozen = (position + 1, False) if heard is None else heard
        return LoopStatus(
            queued_events=self._queued(),
            pending_impressions=0,
            waiting_clicks=0,
            counts={},
            ledger_end=ledger_end,
            applied_position=position,
            frozen=frozen,
            failed=None,
            backend=self._backend,
            saturated=0,
        )


class FollowedRules(RulesInForce):
    """The rules with what the writer has fitted, so that all processes score alike.

    Args:
        rules: from the settings.
        board: where the writer says it.
    """

    def __init__(self, rules: RulesInForce, board: Board) -> None:
        self._board = board
        self._taken_at = 0
        self._current = rules.current

    @property
    def current(self) -> NamedRules:
        """The rules of one reply."""
        if self._board.fitted_at != self._taken_at:
            self._take()
        return self._current

    def follow(self, parameters: Parameters) -> None:
        """Nothing: the writer does."""

    def refit(self, parameters: Parameters) -> None:
        """Nothing: the writer does."""

    def _take(self) -> None:
        told = self._board.fitted()
        if told is not None:
            self._taken_at, (a0, b0, pooled) = told
            self._current = self._current.fitted(beta_prior=(a0, b0), pooled_mean=pooled)


def _refuse() -> NoReturn:
    raise LoopFailed("expected the writer to be asked, got one of its readers")

"""The parameters as processes read them that do not write them.

Invariants: as of `server.snapshot`; a reading is of one epoch of a segment (I9), or `Torn` is raised and nothing of
it leaves. The graph is that of the state: an edit that was answered is in the next reply of every process.
"""

import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bandits.backend import Backend
from bandits.graph import Bool, Graph, Int32
from bandits.sums import UNIT, Int64, Sums
from server.processes.board import Board
from server.processes.publisher import Publisher
from server.processes.segment import (
    BEGUN,
    DONE,
    HAS_IN_FLIGHT,
    LOG_BYTES,
    POSITION,
    ROWS_READY,
    TOTAL_N,
    TOTAL_S,
    Segment,
    fence,
)
from server.processes.shared_graph import GraphReader
from server.snapshot import Parameters, Snapshot, Torn
from streams.change import Change

if TYPE_CHECKING:
    from bandits.shortlist_numba import ShortlistedSlates
    from bandits.slates_numba import CompiledSlates


class Reader(Protocol):
    """How states are held while they are read."""

    def __enter__(self) -> int:
        """The epoch that is read until the end."""

    def __exit__(self, *ended: Any) -> None:
        """Raises `Torn` if it was not whole until now."""

    def wish(self) -> None:
        """Ask for rows by cluster."""


class PinnedReader:
    """Holds a state for one reader process; its threads take turns.

    Args:
        segment: where the states are.
        board: where it is told.
        reader: number of the process.
        turns: of all segments that the process still reads.
    """

    def __init__(self, segment: Segment, board: Board, reader: int, turns: threading.Lock) -> None:
        self._words = segment.words
        self._number = segment.number
        self._board = board
        self._reader = reader
        self._turns = turns
        self._epoch = 0

    def __enter__(self) -> int:
        """Pin the state that is to be read."""
        self._turns.acquire()
        words = self._words
        while True:  # ends: BEGUN runs ahead of DONE by one at most
            epoch = words[DONE]
            self._board.pin(self._reader, self._number, epoch)
            fence()
            if words[BEGUN] <= epoch + 1:
                self._epoch = epoch
                return epoch

    def __exit__(self, *ended: Any) -> None:
        """Let it go.

        Raises:
            Torn: the writer has come round to it meanwhile.
        """
        fence()
        torn = self._words[BEGUN] > self._epoch + 1
        self._board.unpin(self._reader)
        self._turns.release()
        if torn:
            raise Torn

    def wish(self) -> None:
        """Ask the writer for rows by cluster."""
        self._board.wish(self._reader, self._number)


class WriterReader:
    """Holds a state within the writer's process, whose writing waits meanwhile.

    Args:
        segment: where the states are.
        lock: of `Publisher`.
    """

    def __init__(self, segment: Segment, lock: threading.Lock) -> None:
        self._words = segment.words
        self._lock = lock

    def __enter__(self) -> int:
        """Keep the writer away."""
        self._lock.acquire()
        return self._words[DONE]

    def __exit__(self, *ended: Any) -> None:
        """Let it write."""
        self._lock.release()

    def wish(self) -> None:
        """Nothing: operators get no slates."""


class SharedParameters(Parameters):
    """The sums of one graph in a segment; it is its own lock, which readers of the rows hold.

    Args:
        graph: of a state of the segment.
        segment: where the sums are.
        reader: holds states.
        backend: gathers.

    Attributes:
        closed: bool of shape (n_clusters,), clusters that have had their exploration, as the writer found last.
    """

    def __init__(self, graph: Graph, segment: Segment, reader: Reader, backend: Backend) -> None:
        self.graph = graph
        self._backend = backend
        self._segment = segment
        self._reader = reader
        edges, items, arrays = graph.n_edges, graph.n_items, segment.arrays
        self._sides = [Sums(arrays[f"edge{side}"][:edges], arrays[f"item{side}"][:items]) for side in (0, 1)]
        self.closed = arrays["closed"]
        self._flights: list[Int64] = [arrays[f"in_flight{side}"][:edges] for side in (0, 1)]
        self._fillers: list[CompiledSlates | None] = [None, None]
        self._shortlists: list[ShortlistedSlates | None] = [None, None]
        self._epoch = 0  # that is held
        self._sums = self._sides[0]
        _ = graph.lookup([]), graph.item_hashes  # made now, not by the first reader

    @property
    def _lock(self) -> "SharedParameters":  # type: ignore[override]
        """All that `with` needs of a lock; not an attribute, as a cycle would outlive the graph."""
        return self

    def __enter__(self) -> None:
        """Hold a state to be read."""
        epoch = self._epoch = self._reader.__enter__()
        self._sums = self._sides[epoch & 1]
        self._in_flight = self._flights[epoch & 1] if self._segment.side(epoch)[HAS_IN_FLIGHT] else None

    def __exit__(self, *ended: Any) -> None:
        """Let it go.

        Raises:
            Torn: it was not whole until now.
        """
        self._epoch = 0
        self._reader.__exit__(*ended)

    @property
    def position(self) -> int:
        """Ledger position of the state that is held, or of the latest."""
        return self._words()[POSITION]

    @property
    def totals(self) -> tuple[int, float]:
        """Impressions and rewards of all items."""
        words = self._words()
        return words[TOTAL_N], words[TOTAL_S] / UNIT

    def compiled_slates(self) -> "CompiledSlates":
        """As of `Parameters`, for the side that is held."""
        side = self._epoch & 1
        held = self._fillers[side]
        if held is None:
            from bandits.serving_rows_numba import ServingRows
            from bandits.slates_numba import CompiledSlates

            arrays, rows = self._segment.arrays, None
            if self._segment.sizes.lines:
                rows = ServingRows.over(arrays["row_at"][: self.graph.n_items], arrays[f"lines{side}"])
            held = self._fillers[side] = CompiledSlates(self.graph, self._sums, rows)
        return held

    def _slates_around(self) -> "CompiledSlates | ShortlistedSlates":
        """As of `Parameters`, for the side that is held; the writer copies the rows once it is asked to."""
        side, slates = self._epoch & 1, self.compiled_slates()
        if not self._segment.words[ROWS_READY]:
            self._reader.wish()
            return slates
        held = self._shortlists[side]
        if held is None:
            from bandits.cluster_rows_numba import ClusterRows
            from bandits.shortlist_numba import ShortlistedSlates

            rows = ClusterRows.over(self.graph, self._segment.arrays[f"cluster_rows{side}"])
            held = self._shortlists[side] = ShortlistedSlates(slates, rows)
        return held

    def prepare(self) -> None:
        """As of `Parameters`; what follows the sums would be the writer's to write."""
        if self.compiles:
            _ = self.lane_graph().index

    def _words(self) -> "memoryview[int]":
        return self._segment.side(self._epoch or self._segment.words[DONE])


class SharedSnapshot(Snapshot):
    """The current parameters of a reader process.

    Args:
        backend: gathers.
        board: where readers tell what they read.
        reader: number of the process.
    """

    def __init__(self, backend: Backend, board: Board, reader: int) -> None:
        super().__init__(backend)
        self._board = board
        self._reader = reader
        self._turns = threading.Lock()
        self._following = threading.Lock()
        self._place: tuple[Segment, GraphReader] | None = None

    @property
    def current(self) -> Parameters | None:
        """As of `Snapshot`; follows the edits of the graph."""
        place = self._place
        if place is not None:
            segment, graphs = place
            if segment.side(segment.words[DONE])[LOG_BYTES] != graphs.log_bytes:
                self._follow()
        return self._current

    def open_among(self, graph: Graph, clusters: Int32) -> Bool | None:
        """Which clusters may still be explored: as of `server.lane_watch.ClosedClusters`."""
        current = self._current
        if not isinstance(current, SharedParameters) or len(current.closed) != graph.n_clusters:
            return None
        return np.asarray(~current.closed[clusters])

    def go_to(self, segment: Segment) -> None:
        """Read from another segment from now on; who still reads the one before does so to the end."""
        with self._following:
            graphs = GraphReader(segment)
            self._take(segment, graphs)
            self._place = (segment, graphs)

    def apply(self, change: Change) -> None:
        """Refused: one process writes, and it is another."""
        raise TypeError("change: expected the writer to apply it, got a reader")

    def _follow(self) -> None:
        with self._following:
            if self._place is not None:
                self._take(*self._place)

    def _take(self, segment: Segment, graphs: GraphReader) -> None:
        before, end = graphs.log_bytes, _whole_word(segment, LOG_BYTES)
        if end == before:
            return
        # The log is read while other threads go on: what is there already never changes.
        reader = PinnedReader(segment, self._board, self._reader, self._turns)
        self._publish(SharedParameters(graphs.follow(end), segment, reader, self._backend))


class WriterSnapshot(Snapshot):
    """The current parameters of the writer's process, for operators.

    Args:
        backend: gathers.
        publisher: writes them.
    """

    def __init__(self, backend: Backend, publisher: Publisher) -> None:
        super().__init__(backend)
        self._publisher = publisher
        self._seen: tuple[Graph, Segment] | None = None

    @property
    def current(self) -> Parameters | None:
        """As of `Snapshot`."""
        published = self._publisher.published
        if published is not None and published is not self._seen:
            graph, segment = published
            reader = WriterReader(segment, self._publisher.lock)
            self._current = SharedParameters(graph, segment, reader, self._backend)
            self._seen = published
        return self._current

    @property
    def version(self) -> str:
        """Version of the graph; empty before there is one."""
        published = self._publisher.published
        return published[0].version if published else ""

    def apply(self, change: Change) -> None:
        """Publish a change."""
        self._publisher.apply(change)


def _whole_word(segment: Segment, word: int) -> int:
    """A word of the latest state."""
    while True:  # ends: see `PinnedReader`
        epoch = segment.words[DONE]
        value = segment.side(epoch)[word]
        fence()
        if segment.words[BEGUN] <= epoch + 1:
            return value

"""Writes what is served into shared memory, as the only one who does.

Invariants: readers get whole states, one after the other; a state is written beside the one that is read, so nobody
waits for the writer. The writer waits for readers of the side it is to write on, for `LONGEST_WAIT_S` and once for
each, so one that sleeps or has died holds up nothing; such a reader finds out and reads again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.policy_settings import PolicySettings
from bandits.sums import Int32, Int64, N, S
from server.processes.board import Board
from server.processes.segment import (
    BEGUN,
    DONE,
    HAS_IN_FLIGHT,
    LOG_BYTES,
    POSITION,
    TOTAL_N,
    TOTAL_S,
    Segment,
    fence,
)
from server.processes.shared_graph import Full, append_log, sizes_of, write_edit, write_graph
from server.served_changes import served
from streams.change import Change

if TYPE_CHECKING:
    from server.processes.shared_rows import RowsWriter

LONGEST_WAIT_S = 0.02
COPYING_S = 0.1  # of rows by cluster, in a row
_LOOK_S = 0.000_1
_NOTHING: Int64 = np.empty(0, np.int64)


class Publisher:
    """Takes changes over as `server.snapshot.Snapshot` does, for all processes.

    Args:
        board: where readers say what they read.
        policy: settings in force.
        compiled: whether readers find ids by compiled loops.
        first_number: of the first segment; larger than any of the writer before.
        on_segment: called with each new segment, from the thread of the change; readers are sent there.

    Attributes:
        lock: held while a state is written.
        published: graph of the latest state, and the segment that it lies in; None before the first.
    """

    def __init__(
        self,
        board: Board,
        *,
        policy: Callable[[], PolicySettings],
        compiled: bool,
        first_number: int,
        on_segment: Callable[[Segment], None],
    ) -> None:
        self.lock = threading.Lock()
        self.published: tuple[Graph, Segment] | None = None
        self._board = board
        self._policy = policy
        self._compiled = compiled
        self._next_number = first_number
        self._on_segment = on_segment
        self._missing: _Rows | None = None  # what the last epoch changed, and the other side does not have
        self._rows: RowsWriter | None = None  # of the segment

    def apply(self, change: Change) -> None:
        """Publish a change. Called by one thread at a time.

        Raises:
            ValueError: a partial change of a graph that is not the current one.
        """
        change, in_flight = served(change, self._policy())
        graph, segment = self.published or (None, None)
        if change.full:
            self._replace(change.graph, change.edge_rows, change.item_rows, in_flight, change.position)
        elif graph is not None and segment is not None and graph is change.extends:
            try:
                self._edit(graph, segment, change, in_flight)
            except Full:
                self._extend_elsewhere(graph, segment, change, in_flight)
        elif segment is not None and graph is change.graph:
            self._write(segment, change, in_flight, edges=change.edges())
        else:
            held = graph.version if graph else "none"
            raise ValueError(f"change: expected rows of graph {held}, got rows of {change.graph.version}")

    def tell_closed(self, graph: Graph, closed: npt.NDArray[np.bool_]) -> None:
        """Tell all processes which clusters have had their exploration, bool of shape (n_clusters,)."""
        published = self.published
        if published is not None and published[0].n_clusters == graph.n_clusters:
            published[1].arrays["closed"][:] = closed

    def _replace(
        self, graph: Graph, edge_rows: Int64, item_rows: Int64, in_flight: Int64 | None, position: int
    ) -> None:
        """A segment of its own, which both sides of are written before anybody knows it."""
        segment = Segment.create(sizes_of(graph, compiled=self._compiled), number=self._next_number)
        self._next_number += 1
        log_bytes = append_log(segment, write_graph(segment, graph), 0)
        if self.published is not None:
            self._keep_closed(self.published[1], segment)
        total = item_rows.sum(axis=0)
        for side in (0, 1):
            segment.arrays[f"edge{side}"][: len(edge_rows)] = edge_rows
            segment.arrays[f"item{side}"][: len(item_rows)] = item_rows
            if in_flight is not None:
                segment.arrays[f"in_flight{side}"][: len(in_flight)] = in_flight
            words = segment.side(side)
            words[POSITION], words[LOG_BYTES], words[HAS_IN_FLIGHT] = position, log_bytes, in_flight is not None
            words[TOTAL_N], words[TOTAL_S] = int(total[N]), int(total[S])
        rows = self._rows_of(segment, graph)
        segment.words[BEGUN] = 1
        fence()
        segment.words[DONE] = 1
        with self.lock:
            self._rows = rows
            self._missing = None
            self.published = graph, segment
        self._on_segment(segment)

    def _keep_closed(self, before: Segment, segment: Segment) -> None:
        """Until all items have been looked at again, clusters are taken for what they were, as in one process."""
        if len(before.arrays["closed"]) == len(segment.arrays["closed"]):
            segment.arrays["closed"][:] = before.arrays["closed"]

    def _edit(self, old: Graph, segment: Segment, change: Change, in_flight: Int64 | None) -> None:
        rows = self._rows
        if rows is not None and not rows.fits(old, change.graph):
            raise Full
        at = segment.side(segment.words[DONE])[LOG_BYTES]
        log_bytes = append_log(segment, write_edit(segment, old, change.graph), at)
        before = old.lookup(change.graph.item_ids[old.n_items :], retired=True)
        if rows is not None:
            rows.place(change.graph, items=old.n_items)
        edges = np.arange(old.n_edges, change.graph.n_edges)
        self._write(segment, change, in_flight, edges=edges, moved=before[before >= 0], log_bytes=log_bytes)
        self.published = change.graph, segment

    def _extend_elsewhere(self, old: Graph, segment: Segment, change: Change, in_flight: Int64 | None) -> None:
        """An edit for which there is no room: all rows go to a segment that has some."""
        epoch = segment.words[DONE]
        side = epoch & 1
        edge = segment.arrays[f"edge{side}"][: old.n_edges]
        item = segment.arrays[f"item{side}"][: old.n_items]
        flying = None
        if in_flight is not None or segment.side(epoch)[HAS_IN_FLIGHT]:
            more = np.zeros(len(change.edge_rows), np.int64) if in_flight is None else in_flight
            flying = np.concatenate([segment.arrays[f"in_flight{side}"][: old.n_edges], more])
        edge_rows, item_rows = np.concatenate([edge, change.edge_rows]), np.concatenate([item, change.item_rows])
        self._replace(change.graph, edge_rows, item_rows, flying, change.position)

    def _write(
        self,
        segment: Segment,
        change: Change,
        in_flight: Int64 | None,
        *,
        edges: npt.NDArray[np.int64],
        moved: npt.NDArray[np.integer] = _NOTHING,
        log_bytes: int | None = None,
    ) -> None:
        """The next state, in numbered steps.

        Args:
            segment: where it lies.
            change: its rows.
            in_flight: parallel to its edge rows; None = nothing ever is.
            edges: numbers of its edge rows.
            moved: numbers of items whose sums count under numbers of the change from now on.
            log_bytes: where the log ends from now on; None = where it did.
        """
        with self.lock:
            epoch = segment.words[DONE]
            arrays, ours = segment.arrays, (epoch + 1) & 1
            last, words = segment.side(epoch), segment.side(epoch + 1)
            before = arrays[f"item{epoch & 1}"]
            # 1. Say that the older side is written on, and let those go who read it.
            segment.words[BEGUN] = epoch + 1
            fence()
            self._board.wait_for_readers(segment.number, epoch - 1, longest_s=LONGEST_WAIT_S, look_s=_LOOK_S)
            # 2. What it missed.
            flies = bool(last[HAS_IN_FLIGHT]) or in_flight is not None
            missing, rows = self._missing, _Rows.of(change, edges, in_flight)
            if missing is not None:
                self._put(segment, ours, missing)
            # 3. The change.
            total = change.item_rows.sum(axis=0) - before[moved].sum(axis=0)
            if log_bytes is None:
                total -= before[change.items].sum(axis=0)
            self._put(segment, ours, rows)
            if self._rows is not None:
                for changed in (missing, rows):
                    if changed is not None:
                        self._rows.follow(ours, change.graph, changed.items)
            words[POSITION], words[HAS_IN_FLIGHT] = change.position, flies
            words[LOG_BYTES] = last[LOG_BYTES] if log_bytes is None else log_bytes
            words[TOTAL_N], words[TOTAL_S] = last[TOTAL_N] + int(total[N]), last[TOTAL_S] + int(total[S])
            # 4. Readers may go there.
            fence()
            segment.words[DONE] = epoch + 1
            self._missing = rows

    def _put(self, segment: Segment, side: int, rows: "_Rows") -> None:
        """Write rows of sums to a side."""
        arrays = segment.arrays
        edge, item = arrays[f"edge{side}"], arrays[f"item{side}"]
        if self._rows is None:
            edge[rows.edges] = rows.edge_rows
            item[rows.items] = rows.item_rows
        else:
            from bandits.numba_copy import copy_rows

            self._rows.before(side, rows.items, rows.edge_rows)
            copy_rows(arrays["item_ptr"], edge, item, rows.items, rows.edge_rows, rows.item_rows)
        if rows.in_flight is not None:
            arrays[f"in_flight{side}"][rows.edges] = rows.in_flight

    # --- rows ---------------------------------------------------------------------------------------------------

    def _rows_of(self, segment: Segment, graph: Graph) -> "RowsWriter | None":
        if not self._compiled:
            return None
        from server.processes.shared_rows import RowsWriter

        return RowsWriter(segment, graph)

    def copy_wished(self, *, longest_s: float = COPYING_S) -> bool:
        """Copy rows by cluster for so long, if a process wants them; True if there are no more to be copied."""
        deadline_s = time.monotonic() + longest_s
        while not (done := self.copy_some_wished()) and time.monotonic() < deadline_s:
            pass
        return done

    def copy_some_wished(self) -> bool:
        """Copy one piece of them, while which nothing is written; as `copy_wished`."""
        with self.lock:
            published = self.published
            if published is None or self._rows is None or not self._board.wished(published[1].number):
                return True
            return self._rows.copy_more()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a change, of contiguous columns, which nobody writes to any more."""

    items: Int32
    edges: Int64
    edge_rows: Int64
    item_rows: Int64
    in_flight: Int64 | None

    @classmethod
    def of(cls, change: Change, edges: Int64, in_flight: Int64 | None) -> "_Rows":
        edge_rows, item_rows = np.ascontiguousarray(change.edge_rows), np.ascontiguousarray(change.item_rows)
        return cls(np.ascontiguousarray(change.items, np.int32), edges, edge_rows, item_rows, in_flight)

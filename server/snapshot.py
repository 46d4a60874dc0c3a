"""The parameters that replies are computed from: the server's own copy of the sums.

Invariants: a reading comes from one graph and one position (I9), because rows are written and gathered under one
lock; sums belong to the snapshot alone, no one else holds the arrays; the position never goes back within a graph.
A reader that holds `Parameters` while the graph is switched reads the old graph at its last position, never a mix.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bandits.backend import Backend
from bandits.context import Context
from bandits.graph import Int32
from bandits.policies import CandidateSums
from bandits.sums import UNIT, N, S, Sums
from streams.change import Change

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reading:
    """What one reply is computed from.

    Attributes:
        sums: the candidates' sums in the context.
        position: the ledger position they include.
    """

    sums: CandidateSums
    position: int


class Parameters:
    """The sums of one graph, followed from change to change.

    Args:
        change: the full change to start from; its rows are copied.
        backend: gathers.
    """

    def __init__(self, change: Change, backend: Backend) -> None:
        self.graph = change.graph
        self._backend = backend
        self._sums = Sums(np.array(change.edge_rows), np.array(change.item_rows))
        self._position = change.position
        self._totals = self._sums.item.sum(axis=0)
        self._lock = threading.Lock()
        # Made now, not by the first reader.
        _ = self.graph.index, self.graph.item_hashes

    @property
    def position(self) -> int:
        """Ledger position of the sums."""
        return self._position

    @property
    def totals(self) -> tuple[int, float]:
        """Impressions and rewards of all items."""
        return int(self._totals[N]), float(self._totals[S]) / UNIT

    def gather(self, items: Int32, context: Context) -> Reading:
        """The candidates' sums at one position.

        Args:
            items: int32 of shape (n,), item numbers of `graph`.
            context: the resolved user.
        """
        with self._lock:
            return Reading(self._backend.gather(self.graph, self._sums, items, context), self._position)

    def read(self, reader: Callable[[Sums, int], T]) -> T:
        """What `reader` makes of all sums and their position; it must copy what it keeps.

        Writers and other readers wait for it meanwhile, so it is for operators and not for every call.
        """
        with self._lock:
            return reader(self._sums, self._position)

    def write(self, change: Change) -> None:
        """Take over the rows of a change of this graph."""
        edges = change.edges()
        with self._lock:
            self._sums.edge[edges] = change.edge_rows
            self._totals += change.item_rows.sum(axis=0) - self._sums.item[change.items].sum(axis=0)
            self._sums.item[change.items] = change.item_rows
            self._position = change.position


class Snapshot:
    """The current parameters, replaced as a whole when the graph is switched."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._current: Parameters | None = None

    @property
    def current(self) -> Parameters | None:
        """The parameters to read from; None until the first change was applied. Hold it for one reply only."""
        return self._current

    def apply(self, change: Change) -> None:
        """Follow a change. Called by one writer at a time.

        Raises:
            ValueError: a partial change of a graph that is not the current one.
        """
        current = self._current
        if change.full:
            self._current = Parameters(change, self._backend)
        elif current is not None and current.graph is change.graph:
            current.write(change)
        else:
            held = current.graph.version if current else "none"
            raise ValueError(f"change: expected rows of graph {held}, got rows of {change.graph.version}")

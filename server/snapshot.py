"""The parameters that replies are computed from: the server's own copy of the sums.

Invariants: a reading comes from one graph and one position (I9), because rows are written and gathered under one
lock; sums belong to the snapshot alone, no one else holds the arrays; the position never goes back within a graph.
A reader that holds `Parameters` while another artifact is put in force reads the old graph at its last position.
One that holds them while the graph is edited reads the old graph still: its rows go on being written, except those
of items that the edit changed, which stay as they were.
"""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bandits.backend import Backend
from bandits.context import Context
from bandits.edited_sums import SumsRoom
from bandits.graph import Graph, Int32
from bandits.policies import CandidateSums
from bandits.sums import UNIT, Int64, N, S, Sums
from server.scoring import FilledSlate, SlateRules, fill_compiled, fill_slate
from streams.change import Change

if TYPE_CHECKING:
    from bandits.compiled_slates import CompiledSlates

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


@dataclass(eq=False)
class _Progress:
    """What versions of a graph share besides the rows: up to where they are written."""

    position: int
    totals: Int64


class Parameters:
    """The sums of one graph, followed from change to change.

    Args:
        graph: the graph.
        sums: of it; they belong to the parameters from now on.
        position: ledger position of the sums.
        backend: gathers.
        room: of the sums.
    """

    _compiled: "CompiledSlates | None" = None

    def __init__(self, graph: Graph, sums: Sums, position: int, backend: Backend, room: SumsRoom) -> None:
        self.graph = graph
        self._backend = backend
        self._sums = sums
        self._progress = _Progress(position, sums.item.sum(axis=0))
        self._lock = threading.Lock()
        self._room = room
        # Made now, not by the first reader.
        _ = graph.lookup([]), graph.item_hashes

    @classmethod
    def of(cls, change: Change, backend: Backend) -> "Parameters":
        """What a full change says; its rows are copied."""
        room, sums = SumsRoom.copy_of(change.edge_rows, change.item_rows)
        return cls(change.graph, sums, change.position, backend, room)

    @property
    def position(self) -> int:
        """Ledger position of the sums."""
        return self._progress.position

    @property
    def totals(self) -> tuple[int, float]:
        """Impressions and rewards of all items."""
        totals = self._progress.totals
        return int(totals[N]), float(totals[S]) / UNIT

    def gather(self, items: Int32, context: Context) -> Reading:
        """The candidates' sums at one position.

        Args:
            items: int32 of shape (n,), item numbers of `graph`.
            context: the resolved user.
        """
        with self._lock:
            sums = self._backend.gather(self.graph, self._sums, items, context)
            return Reading(sums, self._progress.position)

    def fill(
        self, items: Int32, context: Context, *, mode: str, slate_size: int, seed: int, rules: SlateRules
    ) -> tuple[FilledSlate, int]:
        """A slate of some candidates, and the position it was computed from.

        Args:
            items: int32 of shape (n,), item numbers of `graph`.
            context: the resolved user.
            mode: name of the mode; those without compiled loops are filled from gathered sums.
            slate_size: 1 or more.
            seed: 0 <= seed < 2^64.
            rules: how.
        """
        policy = rules.compiled.get(mode) if self._backend.name == "numba" else None
        if policy is None:
            reading = self.gather(items, context)
            slate = fill_slate(reading.sums, mode=mode, slate_size=slate_size, seed=seed, rules=rules)
            return slate, reading.position
        redraws = rules.draws_for(len(items))
        with self._lock:
            slates = self._compiled_slates()
            slate = fill_compiled(slates, items, context, policy, slate_size=slate_size, seed=seed, redraws=redraws)
            return slate, self.position

    def _compiled_slates(self) -> "CompiledSlates":
        """Compiled loops over the rows as they lie now."""
        held = self._compiled
        if held is None or held.graph is not self.graph or held.sums is not self._sums:
            from bandits.compiled_slates import CompiledSlates

            held = self._compiled = CompiledSlates(self.graph, self._sums)
        return held

    def read(self, reader: Callable[[Sums, int], T]) -> T:
        """What `reader` makes of all sums and their position; it must copy what it keeps.

        Writers and other readers wait for it meanwhile, so it is for operators and not for every call.
        """
        with self._lock:
            return reader(self._sums, self._progress.position)

    def write(self, change: Change) -> None:
        """Take over the rows of a change of this graph."""
        edges = change.edges()
        with self._lock:
            self._sums.edge[edges] = change.edge_rows
            self._progress.totals += change.item_rows.sum(axis=0) - self._sums.item[change.items].sum(axis=0)
            self._sums.item[change.items] = change.item_rows
            self._progress.position = change.position

    def edited(self, change: Change) -> "Parameters":
        """The parameters of an edit of this graph, which share the rows with these."""
        before = self.graph.lookup(change.graph.item_ids[self.graph.n_items :], retired=True)
        new = copy.copy(self)
        with self._lock:
            replaced = self._sums.item[before[before >= 0]].sum(axis=0)
            new.graph = change.graph
            if not self._room.fits(self._sums, change.edge_rows, change.item_rows):
                # Who reads these rows must not be told of what is written to copies of them.
                new._progress = _Progress(self._progress.position, self._progress.totals.copy())
            new._room, new._sums = self._room.extended(self._sums, change.edge_rows, change.item_rows)
            new._progress.totals += change.item_rows.sum(axis=0) - replaced
            new._progress.position = change.position
        return new


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
            self._current = Parameters.of(change, self._backend)
        elif current is not None and current.graph is change.extends:
            self._current = current.edited(change)
        elif current is not None and current.graph is change.graph:
            current.write(change)
        else:
            held = current.graph.version if current else "none"
            raise ValueError(f"change: expected rows of graph {held}, got rows of {change.graph.version}")

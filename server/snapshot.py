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
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from bandits.backend import Backend
from bandits.context import Context
from bandits.edited_sums import SumsRoom
from bandits.graph import Graph, Int32
from bandits.policies import CandidateSums
from bandits.policy_settings import PolicySettings
from bandits.sums import UNIT, Float64, Int64, N, S, Sums, locate
from server.scoring import FilledSlate, SlateRules, fill_compiled, fill_slate
from server.served_changes import served
from streams.change import Change

if TYPE_CHECKING:
    from bandits.cluster_rows_numba import ClusterRows
    from bandits.shortlist_numba import ShortlistedSlates
    from bandits.slates_numba import CompiledSlates
    from server.lane.lane_graph import LaneGraph

T = TypeVar("T")


class Torn(RuntimeError):
    """What was read is of more than one state: what was made of it must be made again.

    Only where another process writes, and this one has been stopped for a while in the middle of reading.
    """


@dataclass(frozen=True, eq=False)
class Reading:
    """What one reply is computed from.

    Attributes:
        sums: the candidates' sums in the context.
        position: the ledger position they include.
        in_flight: float64 of shape (n, K), what of `sums.d` is in flight; None where nothing ever is.
    """

    sums: CandidateSums
    position: int
    in_flight: Float64 | None = None


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
    _cluster_rows: "ClusterRows | None" = None
    _shortlisted: "ShortlistedSlates | None" = None
    _in_flight: Int64 | None = None
    _lane_graph: "LaneGraph | None" = None

    def __init__(self, graph: Graph, sums: Sums, position: int, backend: Backend, room: SumsRoom) -> None:
        self.graph = graph
        self._backend = backend
        self._sums = sums
        self._progress = _Progress(position, sums.item.sum(axis=0))
        self._lock = threading.Lock()
        self._room = room
        self._cluster_rows = self._new_cluster_rows()
        # Made now, not by the first reader.
        _ = graph.lookup([]), graph.item_hashes

    @classmethod
    def of(cls, change: Change, backend: Backend, in_flight: Int64 | None = None) -> "Parameters":
        """What a full change says; its rows are copied."""
        room, sums = SumsRoom.copy_of(change.edge_rows, change.item_rows)
        parameters = cls(change.graph, sums, change.position, backend, room)
        parameters._in_flight = in_flight
        return parameters

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
            return Reading(sums, self.position, self._in_flight_of(items, context))

    def _in_flight_of(self, items: Int32, context: Context) -> Float64 | None:
        if self._in_flight is None:
            return None
        clusters = np.broadcast_to(context.cluster_ids, (len(items), len(context.cluster_ids)))
        edge = locate(self.graph, items, clusters)
        return np.where(edge >= 0, self._in_flight[edge], 0) / UNIT**2

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
        policy = rules.compiled.get(mode) if self.compiles else None
        if policy is None:
            reading = self.gather(items, context)
            slate = fill_slate(reading.sums, mode=mode, slate_size=slate_size, seed=seed, rules=rules)
            return slate, reading.position
        redraws = rules.draws_for(len(items))
        with self._lock:
            slates = self.compiled_slates()
            slate = fill_compiled(slates, items, context, policy, slate_size=slate_size, seed=seed, redraws=redraws)
            return slate, self.position

    def fill_around(
        self, context: Context, *, mode: str, slate_size: int, seed: int, rules: SlateRules
    ) -> tuple[Int32, FilledSlate, int, int] | None:
        """A slate of the items around a user; None where the mode has no compiled loops.

        Returns:
            The chosen items, int32, of which the slate is; how many candidates there were; the position.
        """
        policy = rules.compiled.get(mode) if self.compiles else None
        if policy is None:
            return None
        with self._lock:
            chosen, (score, mean, width, propensity), explored, count = self._slates_around().fill_around(
                context, policy, slate_size=slate_size, seed=seed, draws=rules.draws_for
            )
            position = self.position
        order = np.arange(len(chosen))
        slate = FilledSlate(order, score, mean, width, propensity, explored, policy.estimated)
        return chosen.astype(np.int32), slate, count, position

    def gather_held(self, items: Int32, context: Context) -> CandidateSums:
        """The candidates' sums, for one who holds the lock."""
        return self._backend.gather(self.graph, self._sums, items, context)

    def fill_held(
        self, items: Int32, context: Context, *, mode: str, slate_size: int, seed: int, rules: SlateRules
    ) -> FilledSlate:
        """As `fill` from gathered sums, for one who holds the lock, so that several slates are of one position."""
        sums = self._backend.gather(self.graph, self._sums, items, context)
        return fill_slate(sums, mode=mode, slate_size=slate_size, seed=seed, rules=rules)

    @property
    def lock(self) -> threading.Lock:
        """Held by whoever reads the rows or writes them."""
        return self._lock

    @property
    def compiles(self) -> bool:
        """Whether slates are filled by compiled loops."""
        return self._backend.name == "numba"

    def compiled_slates(self) -> "CompiledSlates":
        """Compiled loops over the rows as they lie now; hold the lock from before this until they have run."""
        if self._compiled is None:
            from bandits.slates_numba import CompiledSlates

            self._compiled = CompiledSlates(self.graph, self._sums)
        return self._compiled

    def prepare(self) -> None:
        """Make now what the first caller would wait for."""
        if not self.compiles:
            return
        _ = self.lane_graph().index
        if self._compiled is None:
            from bandits.slates_numba import CompiledSlates

            self._compiled = CompiledSlates.following(self.graph, self._sums)

    def _new_cluster_rows(self) -> "ClusterRows | None":
        if not self.compiles:
            return None
        from bandits.cluster_rows_numba import ClusterRows

        return ClusterRows(self.graph)

    def _slates_around(self) -> "CompiledSlates | ShortlistedSlates":
        """What fills slates around users; hold the lock as for `compiled_slates`.

        Rows by cluster are copied piece by piece by those who would read them, so that nobody waits for all of them
        and no server has them that is only asked for scores.
        """
        slates, rows = self.compiled_slates(), self._cluster_rows
        if rows is None:
            return slates
        if not rows.ready:
            rows.copy_more(self._sums.edge)
        held = self._shortlisted
        if held is None or held.slates is not slates:
            from bandits.shortlist_numba import ShortlistedSlates

            held = self._shortlisted = ShortlistedSlates(slates, rows)
        return held

    def lane_graph(self) -> "LaneGraph":
        """What compiled reading of requests must know of the graph."""
        held = self._lane_graph
        if held is None or held.graph is not self.graph:
            from server.lane.lane_graph import LaneGraph

            held = self._lane_graph = LaneGraph(self.graph)
        return held

    def resolver(self, *, k: int, temperature: float) -> "Callable[[npt.NDArray[np.float32]], Context | None]":
        """Resolves embeddings by compiled loops; only where `compiles`."""
        from server.lane.resolve_user import resolve_direction

        return partial(resolve_direction, self.lane_graph(), k=k, temperature=temperature)

    def read(self, reader: Callable[[Sums, int], T]) -> T:
        """What `reader` makes of all sums and their position; it must copy what it keeps.

        Writers and other readers wait for it meanwhile, so it is for operators and not for every call.
        """
        with self._lock:
            return reader(self._sums, self.position)

    def write(self, change: Change, in_flight: Int64 | None = None) -> None:
        """Take over the rows of a change of this graph; `in_flight` as `served` gives it."""
        copied, items = self._copier(), np.ascontiguousarray(change.items, np.int32)
        edges = change.edges() if in_flight is not None or copied is None else None
        with self._lock:
            if in_flight is not None:
                if self._in_flight is None:
                    self._in_flight = np.zeros(len(self._sums.edge), np.int64)
                self._in_flight[edges] = in_flight
            if copied is None:
                self._sums.edge[edges] = change.edge_rows
                self._progress.totals += change.item_rows.sum(axis=0) - self._sums.item[change.items].sum(axis=0)
                self._sums.item[change.items] = change.item_rows
            else:
                rows = np.ascontiguousarray(change.edge_rows), np.ascontiguousarray(change.item_rows)
                if self._cluster_rows is not None:
                    self._cluster_rows.follow(self.graph.item_ptr, self._sums.edge, items, rows[0])
                self._progress.totals += copied(
                    self.graph.item_ptr,
                    self._sums.edge,
                    self._sums.item,
                    items,
                    *rows,
                )
            if self._compiled is not None:
                self._compiled.follow(items)
            self._progress.position = change.position

    def _copier(self) -> "Callable[..., Int64] | None":
        """The compiled copying of rows, for which callers wait a quarter of the time."""
        if not self.compiles:
            return None
        from bandits.numba_copy import copy_rows

        return copy_rows

    def edited(self, change: Change, in_flight: Int64 | None = None) -> "Parameters":
        """The parameters of an edit of this graph, which share the rows with these."""
        before = self.graph.lookup(change.graph.item_ids[self.graph.n_items :], retired=True)
        new = copy.copy(self)
        with self._lock:
            replaced = self._sums.item[before[before >= 0]].sum(axis=0)
            new.graph = change.graph
            fits = self._room.fits(self._sums, change.edge_rows, change.item_rows)
            if not fits:
                # Who reads these rows must not be told of what is written to copies of them.
                new._progress = _Progress(self._progress.position, self._progress.totals.copy())
                new._cluster_rows = new._new_cluster_rows()
            new._room, new._sums = self._room.extended(self._sums, change.edge_rows, change.item_rows)
            if self._compiled is not None:
                shared = fits and self._compiled.fits(change.graph)
                new._compiled = self._compiled.extended(new.graph, new._sums, in_place=shared)
                self._compiled = None  # who still reads these reads the sums: later edits may not share the rows
            if self._in_flight is not None:
                added = np.zeros(len(change.edge_rows), np.int64) if in_flight is None else in_flight
                new._in_flight = np.concatenate([self._in_flight, added])
            new._progress.totals += change.item_rows.sum(axis=0) - replaced
            new._progress.position = change.position
        return new


class Snapshot:
    """The current parameters, replaced as a whole when the graph is switched."""

    def __init__(self, backend: Backend, policy: Callable[[], PolicySettings] = PolicySettings) -> None:
        self._backend = backend
        self._policy = policy
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
        change, in_flight = served(change, self._policy())
        if change.full:
            self._publish(Parameters.of(change, self._backend, in_flight))
        elif current is not None and current.graph is change.extends:
            self._publish(current.edited(change, in_flight))
        elif current is not None and current.graph is change.graph:
            current.write(change, in_flight)
        else:
            held = current.graph.version if current else "none"
            raise ValueError(f"change: expected rows of graph {held}, got rows of {change.graph.version}")

    def _publish(self, parameters: Parameters) -> None:
        parameters.prepare()
        self._current = parameters

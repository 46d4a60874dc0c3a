"""Packed queries to packed slates.

Invariants: all slates of a message are of one graph and one position, both stated (I9); a slate equals the one that
the unary call fills for the same candidates, user, mode and seed; a slate that is refused harms no other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import grpc
import numpy as np
import numpy.typing as npt

from bandits.context import Context
from bandits.draws import COARSE_QUANTILES
from bandits.life_cycle import Bounds
from freshet.v1 import recommender_pb2
from server.errors import Refused, invalid_field, no_graph
from server.life_cycle import Exploration
from server.limits import MAX_REDRAWN_SCORES, MAX_SURFACE_BYTES
from server.metrics import Metrics
from server.packed.columns import Queries, read_columns
from server.packed.dictionary import Dictionary, check_range, numbers_of
from server.packed.fill_packed import fill_packed
from server.packed.policies import ModeTable, tables_side_by_side
from server.packed.read_packed import (
    BAD_CLUSTER,
    BAD_EMBEDDING,
    BAD_WEIGHT,
    FINE,
    REPEATED_CLUSTER,
    REPEATED_ITEM,
    WIDEST,
    read_packed,
)
from server.packed.shadowed_slates import ShadowedSlates
from server.requests import MODE_NAMES, MODE_NUMBERS, check_text
from server.rules import RulesInForce
from server.shadow.shadows import Shadows
from server.snapshot import Parameters, Snapshot

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
BAD_MODE = 99  # beside what `server.packed.read_packed` finds


@dataclass(frozen=True, eq=False)
class _Read:
    """What `read_packed` fills, for S slates."""

    kept: Int32
    places: Int32
    kept_ends: Int64
    users: Int32
    affinities: npt.NDArray[np.float64]
    user_sizes: Int32
    problem: Int32
    where: Int32

    @classmethod
    def room(cls, slates: int, candidates: int) -> "_Read":
        return cls(
            np.empty(candidates, np.int32),
            np.empty(candidates, np.int32),
            np.empty(slates, np.int64),
            np.empty(slates * WIDEST, np.int32),
            np.empty(slates * WIDEST),
            *(np.empty(slates, np.int32) for _ in range(3)),
        )

    def context(self, slate: int) -> Context:
        """The user of a slate."""
        user = slice(slate * WIDEST, slate * WIDEST + int(self.user_sizes[slate]))
        return Context(self.users[user], self.affinities[user])


@dataclass(frozen=True, eq=False)
class _Filled:
    """Entries of all slates."""

    ends: Int64
    candidates: Int32
    numbers: npt.NDArray[np.float64]
    explored: npt.NDArray[np.uint8]
    bounds: dict[int, Bounds] = field(default_factory=dict)  # of slates whose exploration something bounded

    @classmethod
    def room(cls, sizes: Int64) -> "_Filled":
        total = int(sizes.sum())
        ends = np.cumsum(sizes)
        return cls(ends, np.empty(total, np.int32), np.empty((4, total)), np.empty(total, np.uint8))


class PackedSlates:
    """Fills slates by the message.

    Args:
        snapshot: the parameters.
        rules: the scoring rules in force.
        k: clusters of a user who comes as an embedding.
        temperature: of their softmax.
        default_mode: name of the mode of slates that name none.
        metrics: where slates are counted.
        shadows: look at some slates; None = nobody does.
        exploration: bounds it; None = nothing does.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        rules: RulesInForce,
        k: int,
        temperature: float,
        default_mode: str,
        metrics: Metrics,
        shadows: Shadows | None = None,
        exploration: Exploration | None = None,
    ) -> None:
        self._exploration = exploration
        self._shadows = shadows
        self._snapshot = snapshot
        self._rules = rules
        self._k = k
        self._temperature = temperature
        self._default_mode = MODE_NUMBERS[default_mode]
        self._metrics = metrics
        self._modes: ModeTable | None = None

    def fill(self, queries: recommender_pb2.PackedQueries, dictionary: Dictionary) -> recommender_pb2.PackedSlates:
        """The slates of a message.

        Args:
            queries: the message.
            dictionary: what its ids are added to; as before if the message is refused.

        Raises:
            Refused: the message as a whole.
        """
        parameters = self._snapshot.current
        if parameters is None:
            raise no_graph()
        columns = read_columns(queries, dim=parameters.graph.centroids.shape[1])
        check_text("queries.surface", queries.surface, largest=MAX_SURFACE_BYTES)
        numbers = _numbers(queries, columns, parameters, dictionary)
        read = self._read(columns, numbers, parameters)
        table, modes = self._modes_of(columns)
        known = table.known[modes]
        if not known.all():
            read.problem[(read.problem == FINE) & ~known] = BAD_MODE
        counts, given = _lengths(read.kept_ends), _lengths(columns.item_ends)
        sizes = np.where(columns.sizes == 0, given, columns.sizes).clip(max=counts)
        sizes[read.problem != FINE] = 0
        seeds = columns.seeds
        if seeds is None:
            seeds = np.frombuffer(os.urandom(8 * len(columns)), np.uint64).copy()
        spent = self._exploration.spent(queries.surface) if self._exploration else None
        if spent:
            modes = np.full(len(columns), MODE_NUMBERS["exploit"], np.uint8)
        filled, position = self._fill(
            parameters, read, table, modes, counts, sizes, seeds, surface=queries.surface, spent=spent
        )
        if self._shadows is not None:
            offered = ShadowedSlates(self._shadows, parameters, queries.request_ids)
            _offer(offered, columns, numbers, read, filled, sizes, modes)
        return self._answer(
            queries, columns, parameters, numbers, read, table, modes, sizes, seeds, filled, position
        )

    def _read(self, columns: Queries, numbers: Int32, parameters: Parameters) -> _Read:
        graph = parameters.lane_graph()
        read = _Read.room(len(columns), len(numbers))
        read_packed(
            numbers,
            columns.item_ends,
            columns.clusters,
            columns.weights,
            columns.cluster_ends,
            columns.embeddings,
            graph.centroids,
            graph.largest,
            self._k,
            self._temperature,
            read.kept,
            read.places,
            read.kept_ends,
            read.users,
            read.affinities,
            read.user_sizes,
            read.problem,
            read.where,
        )
        return read

    def _modes_of(self, columns: Queries) -> tuple[ModeTable, npt.NDArray[np.uint8]]:
        rules, table = self._rules.current, self._modes
        if table is None or table.rules is not rules:
            table = self._modes = ModeTable.of(rules)
        modes = columns.modes
        return table, modes if modes.all() else np.where(modes == 0, np.uint8(self._default_mode), modes)

    def _fill(
        self,
        parameters: Parameters,
        read: _Read,
        table: ModeTable,
        modes: npt.NDArray[np.uint8],
        counts: Int64,
        sizes: Int64,
        seeds: npt.NDArray[np.uint64],
        *,
        surface: str,
        spent: Bounds | None,
    ) -> tuple[_Filled, int]:
        """The slates, and the position that they were computed from; `spent` as `Exploration.spent` gives it."""
        slate_rules, shares = table.rules.slate, table.shares
        exploration = None if spent else self._exploration
        if spent:
            slate_rules, shares = replace(slate_rules, explore_share=0.0), np.zeros_like(shares)
        bound = np.zeros(len(sizes), np.bool_)
        if exploration is not None:
            bound = exploration.bound(parameters.graph, read.kept[: int(counts.sum())], read.kept_ends)
        compiled = table.compiled[modes] & parameters.compiles & ~bound
        draws = np.minimum(slate_rules.propensity_draws, MAX_REDRAWN_SCORES // np.maximum(counts, 1)).clip(min=1)
        tables, table_at = tables_side_by_side(counts, sizes, shares[modes])
        filled = _Filled.room(sizes)
        with parameters.lock:
            if parameters.compiles:
                fill_packed(
                    parameters.compiled_slates().view,
                    read.kept,
                    read.places,
                    read.kept_ends,
                    read.users,
                    read.affinities,
                    read.user_sizes,
                    compiled,
                    modes,
                    table.rows,
                    sizes,
                    seeds,
                    slate_rules.top_m,
                    shares,
                    draws,
                    COARSE_QUANTILES,
                    tables,
                    table_at,
                    filled.ends,
                    filled.candidates,
                    filled.numbers,
                    filled.explored,
                )
            for slate in np.flatnonzero(~compiled & (sizes > 0)).tolist():
                end, to = int(read.kept_ends[slate]), int(filled.ends[slate])
                candidates = slice(end - int(counts[slate]), end)
                items, user, mode = read.kept[candidates], read.context(slate), MODE_NAMES[int(modes[slate])]
                size, seed = int(sizes[slate]), int(seeds[slate])
                if exploration is not None and bound[slate]:
                    sums = parameters.gather_held(items, user)
                    one, filled.bounds[slate] = exploration.fill_bound(
                        parameters,
                        items,
                        user,
                        sums,
                        mode=mode,
                        surface=surface,
                        slate_size=size,
                        seed=seed,
                        rules=slate_rules,
                    )
                else:
                    one = parameters.fill_held(
                        items, user, mode=mode, slate_size=size, seed=seed, rules=slate_rules
                    )
                entries = slice(to - int(sizes[slate]), to)
                filled.candidates[entries] = read.places[candidates][one.chosen]
                filled.numbers[:, entries] = one.score, one.mean, one.width, one.propensity
                filled.explored[entries] = one.explored
            position = parameters.position
        if spent:
            filled.bounds.update((slate, spent) for slate in np.flatnonzero(sizes).tolist())
        if exploration is not None:
            _count_unbound(exploration, surface, modes, sizes, bound, filled)
        return filled, position

    def _answer(
        self,
        queries: recommender_pb2.PackedQueries,
        columns: Queries,
        parameters: Parameters,
        numbers: Int32,
        read: _Read,
        table: ModeTable,
        modes: npt.NDArray[np.uint8],
        sizes: Int64,
        seeds: npt.NDArray[np.uint64],
        filled: _Filled,
        position: int,
    ) -> recommender_pb2.PackedSlates:
        fine = read.problem == FINE
        used = _distinct(modes[fine])
        unknown = np.flatnonzero(numbers < 0)
        self._count(queries.surface, used, modes, sizes, filled, len(unknown))
        score, mean, width, propensity = filled.numbers
        answer = recommender_pb2.PackedSlates(
            item_counts=_bytes(sizes, "<i4"),
            candidates=_bytes(filled.candidates, "<i4"),
            scores=_bytes(score, "<f8"),
            means=_bytes(mean, "<f8"),
            widths=_bytes(width, "<f8"),
            propensities=_bytes(propensity, "<f8"),
            explored=filled.explored.tobytes(),
            seeds=_bytes(seeds, "<u8"),
            modes=modes.tobytes(),
            policies=[table.message(number) for number in used],
            unknown=_bytes(unknown, "<i4"),
            graph_version=parameters.graph.version,
            parameters_position=[position],
        )
        if len(columns.embeddings):
            entry = np.arange(WIDEST) < read.user_sizes[:, None]
            answer.cluster_ids = _bytes(read.users.reshape(-1, WIDEST)[entry], "<i4")
            answer.weights = _bytes(read.affinities.reshape(-1, WIDEST)[entry], "<f4")
            answer.cluster_counts = _bytes(read.user_sizes, "<i4")
        for slate in np.flatnonzero(~fine).tolist():
            status = _refusal(columns, read, modes, slate).status()
            answer.errors.append(recommender_pb2.PackedError(slate=slate, status=status))
        return answer

    def _count(
        self,
        surface: str,
        used: Sequence[int],
        modes: npt.NDArray[np.uint8],
        sizes: Int64,
        filled: _Filled,
        unknown: int,
    ) -> None:
        if unknown:
            self._metrics.unknown_items.inc(unknown)
        of_item = np.repeat(modes, sizes) if len(used) > 1 else None
        for number in used:
            mine = slice(None) if of_item is None else of_item == number
            propensity = filled.numbers[3, mine]
            self._metrics.counted_slate(
                mode=MODE_NAMES[number],
                surface=surface,
                items=len(propensity),
                explored=int(np.count_nonzero(filled.explored[mine])),
                counts=self._metrics.propensity.counted(propensity),
                total=float(propensity.sum()),
                slates=int(np.count_nonzero((modes == number) & (sizes > 0))),
            )


def _numbers(
    queries: recommender_pb2.PackedQueries, columns: Queries, parameters: Parameters, dictionary: Dictionary
) -> Int32:
    """Numbers of the graph of all candidates, -1 where it has no such item."""
    graph = parameters.graph
    if queries.graph_version:
        if queries.graph_version != graph.version:
            message = f"queries.graph_version: expected {graph.version}, which is in force"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message, reason="graph_version")
        if queries.dictionary:
            raise invalid_field("queries.dictionary", "no ids with graph_version", f"{len(queries.dictionary)} ids")
        check_range(columns.items, graph.n_items, "number of an item of the graph")
        edits = graph.edits
        return columns.items if edits is None else np.where(edits.live[columns.items], columns.items, np.int32(-1))
    known = dictionary.extended(queries.dictionary, graph)
    try:
        return numbers_of(columns.items, known)
    except Refused:
        dictionary.forget(len(queries.dictionary))
        raise


def _count_unbound(
    exploration: Exploration,
    surface: str,
    modes: npt.NDArray[np.uint8],
    sizes: Int64,
    bound: npt.NDArray[np.bool_],
    filled: _Filled,
) -> None:
    """Tell what was explored in slates that nothing bounded."""
    for number in np.unique(modes[~bound & (sizes > 0)]).tolist():
        mine = np.repeat(~bound & (modes == number), sizes)
        explored = int(np.count_nonzero(filled.explored[mine]))
        exploration.filled(surface, MODE_NAMES[number], int(np.count_nonzero(mine)), explored)


def _offer(
    offered: ShadowedSlates,
    columns: Queries,
    numbers: Int32,
    read: _Read,
    filled: _Filled,
    sizes: Int64,
    modes: npt.NDArray[np.uint8],
) -> None:
    """Let shadow policies look at the slates."""
    for slate in offered.chosen(np.flatnonzero(sizes)):
        first_item = int(columns.item_ends[slate - 1]) if slate else 0
        first_kept = int(read.kept_ends[slate - 1]) if slate else 0
        to = int(filled.ends[slate])
        entries = slice(to - int(sizes[slate]), to)
        offered.take(
            slate,
            items=read.kept[first_kept : int(read.kept_ends[slate])],
            user=read.context(slate),
            shown=numbers[first_item + filled.candidates[entries]],
            propensity=filled.numbers[3, entries],
            mode=int(modes[slate]),
            bounds=filled.bounds.get(slate),
        )


def _refusal(columns: Queries, read: _Read, modes: npt.NDArray[np.uint8], slate: int) -> Refused:
    """Why a slate was refused, by the path of the bad entry within the message."""
    problem, where = int(read.problem[slate]), int(read.where[slate])
    first_item = int(columns.item_ends[slate - 1]) if slate else 0
    if problem == REPEATED_ITEM:
        return invalid_field(f"queries.items[{first_item + where}]", "distinct items within a slate", "one again")
    if problem == BAD_MODE:
        return invalid_field(f"queries.modes[{slate}]", f"a Mode, 0 to {max(MODE_NAMES)}", int(modes[slate]))
    if problem == BAD_EMBEDDING:
        return invalid_field(f"queries.embeddings (slate {slate})", "finite numbers, not all zero", "others")
    at = where + (int(columns.cluster_ends[slate - 1]) if slate else 0)
    if problem == BAD_WEIGHT:
        weight = float(columns.weights[at])
        return invalid_field(f"queries.weights[{at}]", "a number, 0 < weight <= 1", weight)
    expected = {
        BAD_CLUSTER: "a cluster of the graph",
        REPEATED_CLUSTER: "distinct clusters within a user",
    }[problem]
    return invalid_field(f"queries.cluster_ids[{at}]", expected, int(columns.clusters[at]))


def _lengths(ends: Int64) -> Int64:
    """Of stretches that lie one behind the other; `np.diff` with a first zero takes five times as long."""
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    return lengths


def _distinct(modes: npt.NDArray[np.uint8]) -> list[int]:
    """The modes of a message, ascending: usually one, or none."""
    if len(modes) and (modes == modes[0]).all():
        return [int(modes[0])]
    several: list[int] = np.unique(modes).tolist()
    return several


def _bytes(column: npt.NDArray[np.generic], kind: str) -> bytes:
    return column.astype(kind, copy=False).tobytes()

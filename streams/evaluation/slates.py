"""A log as slates, in order of time: the columns that every source is brought into before it is evaluated.

Invariant: within a slate no position comes twice, so that a row has one place in a matrix of shape (slates, slots).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bandits.context import Context
from bandits.graph import Graph, Int32, Int64
from bandits.sums import UNIT, Float64
from streams.logs import EventLog

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LoggedSlates:
    """Slates that were shown, with what they earned. A row is one shown item.

    Attributes:
        name: what it is, for reports.
        graph: numbers the items.
        slate: int64 of shape (n_rows,), number of each row's slate, ascending from 0 without holes.
        item: int32 of shape (n_rows,), -1 where the graph does not have it.
        position: int32 of shape (n_rows,).
        propensity: float64 of shape (n_rows,), P(item at its position) under the logging policy; 0 = unknown.
        conditional: float64 of shape (n_rows,), the same given the items above it; NaN = unknown.
        reward: float64 of shape (n_rows,).
        context: int64 of shape (n_slates,), row of the context table.
        context_ends: int64, end of each context in the next two.
        context_cluster: int32, ascending within a context.
        context_x: int64, unit 2^-15.
        candidate_ends: int64 parallel to the context table, or None where the log names no candidates.
        candidates: int32, item numbers.
        whole: the rows of a slate are all that it showed; otherwise each slate is a single row of one of
            `slots` slots.
        slots: number of positions.
        reward_high: largest possible reward of a row.
        note: what to know of this log.
    """

    name: str
    graph: Graph
    slate: Int64
    item: Int32
    position: Int32
    propensity: Float64
    conditional: Float64
    reward: Float64
    context: Int64
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    candidate_ends: Int64 | None
    candidates: Int32
    whole: bool
    slots: int
    reward_high: float
    note: str

    def __len__(self) -> int:
        return len(self.context)

    def keep(self, kept: Bool) -> "LoggedSlates":
        """Some slates of it, chosen by a bool of shape (n_slates,)."""
        rows = kept[self.slate]
        return replace(
            self,
            slate=(np.cumsum(kept) - 1)[self.slate[rows]],
            item=self.item[rows],
            position=self.position[rows],
            propensity=self.propensity[rows],
            conditional=self.conditional[rows],
            reward=self.reward[rows],
            context=self.context[kept],
        )

    def first(self, slates: int) -> "LoggedSlates":
        """The beginning of the log."""
        return self.keep(np.arange(len(self)) < slates)

    def noted(self, text: str) -> "LoggedSlates":
        """The same with a further note."""
        return replace(self, note="; ".join(filter(None, [self.note, text])))

    def split(self, share: float) -> tuple["LoggedSlates", "LoggedSlates"]:
        """The first share of the slates, and the rest."""
        first = np.arange(len(self)) < round(share * len(self))
        return self.keep(first), self.keep(~first)

    def lengths(self) -> Int64:
        """Rows of each slate, int64 of shape (n_slates,)."""
        return np.bincount(self.slate, minlength=len(self)).astype(np.int64)

    def matrix(self, rows: npt.ArrayLike, *, fill: float = 0.0) -> Float64:
        """A column of rows as float64 of shape (n_slates, width); width is 1 where slates are single rows."""
        column = self.position if self.whole else np.zeros(len(self.slate), np.int32)
        result: Float64 = np.full((len(self), self.slots if self.whole else 1), fill)
        result[self.slate, column] = rows
        return result

    def per_slate(self, rows: Float64) -> Float64:
        """Sum of a column of rows over each slate, float64 of shape (n_slates,)."""
        return np.bincount(self.slate, weights=rows, minlength=len(self)).astype(np.float64)

    def context_of(self, row: int) -> Context:
        """Clusters and weights of a row of the context table."""
        part = slice(int(self.context_ends[row - 1]) if row else 0, int(self.context_ends[row]))
        return Context(self.context_cluster[part], self.context_x[part] / UNIT)

    def candidates_of(self, row: int, choice: str) -> Int32:
        """What a policy chooses from in a row of the context table: "logged", "around" or "all"."""
        if choice == "logged" and self.candidate_ends is not None:
            start = int(self.candidate_ends[row - 1]) if row else 0
            return self.candidates[start : int(self.candidate_ends[row])]
        if choice == "all":
            return np.arange(self.graph.n_items, dtype=np.int32)
        clusters = self.context_of(row).cluster_ids
        return self.graph.items_around(clusters[clusters < self.graph.n_clusters])


def slates_of(
    log: EventLog,
    *,
    whole: bool,
    conditional: Float64 | None = None,
    candidate_ends: Int64 | None = None,
    candidates: Sequence[int] | Int32 = (),
    reward_high: float = 1.0,
) -> LoggedSlates:
    """A log as slates.

    Args:
        log: the log.
        whole: its contexts are its slates, each with all its rows; otherwise each row is a slate of its own.
        conditional: propensities given the items above, NaN = unknown; None = all unknown.
        candidate_ends: as in `LoggedSlates`.
        candidates: as in `LoggedSlates`.
        reward_high: largest possible reward of a row.
    """
    user, position = log.user, log.position
    note = log.note
    if whole:
        pairs = user * (int(position.max(initial=0)) + 1) + position
        whole = len(np.unique(pairs)) == len(pairs)
        if not whole:
            note += "; positions repeat within a slate, so each shown item stands for itself"
    slate = np.unique(user, return_inverse=True)[1] if whole else np.arange(len(log))
    order = np.lexsort((position, slate))
    first = np.flatnonzero(np.diff(slate[order], prepend=-1))
    return LoggedSlates(
        name=log.name,
        graph=log.graph,
        slate=slate[order].astype(np.int64),
        item=log.graph.lookup(log.item_ids)[order],
        position=position[order],
        propensity=log.propensity[order],
        conditional=np.full(len(log), np.nan) if conditional is None else conditional[order],
        reward=log.clicked[order],
        context=user[order][first],
        context_ends=log.context_ends,
        context_cluster=log.context_cluster,
        context_x=log.context_x,
        candidate_ends=candidate_ends,
        candidates=np.asarray(candidates, np.int32),
        whole=whole,
        slots=int(position.max(initial=0)) + 1,
        reward_high=reward_high,
        note=note,
    )

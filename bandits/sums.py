"""The learned state: fixed-point sums of every edge and item, exact in any order.

Invariants: every sum is a non-negative int64 that saturates at 2^63 - 1 and never wraps; adding the same facts in
any order, batching or sharding, on any backend, gives the same bits and therefore the same `state_hash`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned_zeros
from bandits.graph import Graph
from bandits.hashing import GOLDEN, LANES, UInt64, mix

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

UNIT_BITS = 15
UNIT = 1 << UNIT_BITS  # x and r are multiples of 1 / UNIT; a and s have this unit, d and b its square.
LARGEST = np.int64(np.iinfo(np.int64).max)

# Columns of `Sums.edge` and `Sums.item`.
A, D, B = 0, 1, 2
N, S = 0, 1
# Columns of `Sums.extra` and `Sums.times`.
OPEN, EXCESS, PAST_A, PAST_D, PAST_B, PAST_EXCESS = range(6)
HALF_LIFE, LATEST = 0, 1


@dataclass(frozen=True, eq=False)
class Facts:
    """A micro-batch of facts as columns, in the numbering of one graph.

    A fact counts an impression, a reward, or both, of one item in one context. Several facts share a context.

    Attributes:
        item: int32 of shape (n_facts,), item numbers.
        context: int32 of shape (n_facts,), rows of the context columns.
        impressions: int64 of shape (n_facts,), 1 where the fact counts an impression, else 0.
        reward: int64 of shape (n_facts,), round(r * UNIT), 0 where there is none; below 2^32.
        context_ptr: int64 of shape (n_contexts + 1,).
        context_cluster: int32 of shape (context_ptr[-1],), ascending within a context; numbers that the graph
            does not have are no error, they have no edges.
        context_x: int64 parallel to `context_cluster`, x = round(w * UNIT), 0 < x <= UNIT.
        opening: int64 of shape (n_facts,): 1 where an impression begins to be in flight, -1 where it ends to be;
            None = 0 everywhere.
        gamma: int64 of shape (n_facts,): x = gamma * context_x, unit 2^-15; None = 1 everywhere.
        shown_ms: int64 of shape (n_facts,): when the impression of each fact was shown, Unix milliseconds; None =
            nothing is forgotten.
        half_life_ms: int64 of shape (n_facts,), after which a fact counts half as much, 0 = never; None where
            `shown_ms` is.
    """

    item: Int32
    context: Int32
    impressions: Int64
    reward: Int64
    context_ptr: Int64
    context_cluster: Int32
    context_x: Int64
    opening: Int64 | None = None
    gamma: Int64 | None = None
    shown_ms: Int64 | None = None
    half_life_ms: Int64 | None = None

    def __len__(self) -> int:
        return len(self.item)

    @property
    def is_plain(self) -> bool:
        """Whether a, d, b, n and s are all that the facts add to."""
        return self.opening is None and self.gamma is None and self.shown_ms is None


def chosen(column: Int64 | None, at: npt.NDArray[np.generic] | slice) -> Int64 | None:
    """Entries of a column that may be absent."""
    return None if column is None else column[at]


class Holder(Protocol):
    """Who keeps the newest `edge` and `item` of some sums elsewhere, on a GPU."""

    def bring_back(self, edge: Int64, item: Int64) -> None:
        """Write what has changed there into the arrays."""

    def follow(self, graph: Graph, sums: "Sums", cleared: Int32) -> bool:
        """Go on with an edit of the graph; False if that cannot be."""


@dataclass(eq=False)
class Sums:
    """Sums of all edges and items of one graph.

    A backend may hold them elsewhere: `edge` and `item` are then brought back when they are read, and cannot be
    written to; who writes to them, other than by a backend, calls `release` before.

    Attributes:
        edge: int64 of shape (n_edges, 3), columns A (sum of x, unit 2^-15), D (sum of x^2, unit 2^-30; Eq. 8) and
            B (sum of x*r, unit 2^-30; Eq. 9), without any prior. Rows in the item-major order of the graph.
        item: int64 of shape (n_items, 2), columns N (impressions) and S (sum of rewards, unit 2^-15).
        saturated: how often an addition hit the largest value.
        extra: int64 of shape (n_edges, 6), None where nothing asks for it. Columns OPEN (sum of x^2 of impressions
            in flight, unit 2^-30; below zero where a graph got the edge while they were), EXCESS (sum of (w - x)*r,
            unit 2^-30: where positions matter, b + EXCESS is the sum of w*r) and, where old facts are forgotten,
            PAST_A, PAST_D, PAST_B and PAST_EXCESS: the block before the newest (`bandits.forgetting`).
        times: int64 of shape (n_items, 2), None where `extra` is. Columns HALF_LIFE and LATEST, Unix milliseconds;
            0 where nothing is forgotten. n and s, which nothing forgets, count a lifetime.
    """

    edge: Int64
    item: Int64
    saturated: int = 0
    extra: Int64 | None = None
    times: Int64 | None = None
    holder: Holder | None = field(default=None, init=False, repr=False)
    _lent: tuple[Int64, Int64] | None = field(default=None, init=False, repr=False)

    def lend(self, holder: Holder) -> None:
        """Let a holder have the newest `edge` and `item` until they are read; it may have held them before."""
        if self._lent is None:
            self._lent = self.edge, self.item
        self.holder = holder
        vars(self).pop("edge", None)
        vars(self).pop("item", None)

    def release(self) -> None:
        """Take `edge` and `item` back, to be written to here."""
        if self.holder is not None and self._lent is not None:
            if "edge" not in vars(self):
                self.holder.bring_back(*self._lent)
            self.edge, self.item = self._lent
            self.holder = self._lent = None

    def at_rest(self) -> "Sums":
        """The same sums, brought back, as arrays that compiled loops know; only to be read."""
        if self._lent is None:
            return self
        _ = self.edge  # brings them back
        return Sums(*self._lent, self.saturated, self.extra, self.times)

    def follow(self, before: "Sums", graph: Graph, cleared: Int32) -> None:
        """Have who holds the sums before an edit of their graph hold these.

        Args:
            before: the sums before, not used any more.
            graph: the edited graph.
            cleared: items of the graph before whose rows are zero now; distinct.
        """
        holder = before.holder
        before.release()
        if holder is not None and self.holder is None and holder.follow(graph, self, cleared):
            self.lend(holder)

    if not TYPE_CHECKING:  # a type checker would take any name for one of ours

        def __getattr__(self, name: str) -> Any:
            lent = vars(self).get("_lent")
            if lent is None or name not in ("edge", "item"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.holder.bring_back(*lent)
            for own, array in zip(("edge", "item"), lent, strict=True):
                shown = array.view()
                shown.setflags(write=False)
                vars(self)[own] = shown
            return vars(self)[name]

    def with_extra(self) -> tuple[Int64, Int64]:
        """`extra` and `times`, made of zeros where there are none."""
        if self.extra is None or self.times is None:
            self.extra = aligned_zeros((len(self.edge), 6), np.int64)
            self.times = aligned_zeros((len(self.item), 2), np.int64)
        return self.extra, self.times

    @classmethod
    def zeros(cls, graph: Graph) -> "Sums":
        """Nothing learned yet."""
        return cls(aligned_zeros((graph.n_edges, 3), np.int64), aligned_zeros((graph.n_items, 2), np.int64))


def state_hash(graph: Graph, sums: Sums) -> str:
    """Order-independent hash of all sums that are not zero, 32 hex digits.

    It depends on external item ids, cluster numbers and values only: not on the numbering of items, on edges that
    have learned nothing, nor on how items are sharded.
    """
    touched = np.flatnonzero(sums.edge.any(axis=1))
    owner = np.searchsorted(graph.item_ptr, touched, side="right") - 1
    shown = np.flatnonzero(sums.item.any(axis=1))
    total = 0
    for lane in range(2):
        hashes = graph.item_hashes[:, lane]
        edges = _chain(hashes[owner] ^ LANES[lane], graph.edge_cluster[touched], *sums.edge[touched].T)
        items = _chain(hashes[shown] + GOLDEN, *sums.item[shown].T)
        # Sums of hashes (modulo 2^64) do not depend on order.
        part = int(edges.sum(dtype=np.uint64)) + int(items.sum(dtype=np.uint64)) + _extra_hash(graph, sums, lane)
        part %= 2**64
        total = total << 64 | part
    return f"{total:032x}"


def _extra_hash(graph: Graph, sums: Sums, lane: int) -> int:
    """Of what is in flight and of what only some settings keep; 0 where all of that is zero."""
    if sums.extra is None or sums.times is None:
        return 0
    extra, hashes = sums.extra.copy(), graph.item_hashes[:, lane]
    extra[:, OPEN] = np.maximum(extra[:, OPEN], 0)  # below zero is what a switch of graphs left, and stands for 0
    touched, timed = np.flatnonzero(extra.any(axis=1)), np.flatnonzero(sums.times.any(axis=1))
    owner = np.searchsorted(graph.item_ptr, touched, side="right") - 1
    edges = _chain(hashes[owner] ^ LANES[1 - lane] ^ GOLDEN, graph.edge_cluster[touched], *extra[touched].T)
    items = _chain(hashes[timed] ^ GOLDEN, *sums.times[timed].T)
    return int(edges.sum(dtype=np.uint64)) + int(items.sum(dtype=np.uint64))


def _chain(start: UInt64, *columns: npt.NDArray[np.integer]) -> UInt64:
    state = mix(start)
    for column in columns:
        state = mix((state + GOLDEN) ^ column.astype(np.uint64))
    return state


def carry_over(old: Graph, old_sums: Sums, new: Graph) -> Sums:
    """Sums of `old` on the edges and items that `new` has too; its other edges and items start at zero.

    Clusters are matched by number: the caller answers for their meaning being the same.
    """
    sums = Sums.zeros(new)
    old_number = numbers_in(old, new)
    kept = np.flatnonzero(old_number >= 0)
    sums.item[kept] = old_sums.item[old_number[kept]]
    owner = np.repeat(np.arange(new.n_items), np.diff(new.item_ptr))
    edge = locate(old, old_number[owner], new.edge_cluster[:, None])[:, 0]
    found = edge >= 0
    sums.edge[found] = old_sums.edge[edge[found]]
    if old_sums.extra is not None and old_sums.times is not None:
        extra, times = sums.with_extra()
        extra[found] = old_sums.extra[edge[found]]
        extra[:, OPEN] = np.maximum(extra[:, OPEN], 0)
        times[kept] = old_sums.times[old_number[kept]]
    sums.saturated = old_sums.saturated
    return sums


def numbers_in(old: Graph, new: Graph) -> Int32:
    """Number in `old` of what each number of `new` stands for, int32; -1 where that is nothing."""
    numbers = old.lookup(new.item_ids, retired=True)
    if new.edits is not None:
        numbers[~new.edits.in_use] = -1
    return numbers


def locate(graph: Graph, item: npt.NDArray[np.integer], cluster: npt.NDArray[np.integer]) -> Int64:
    """Edge numbers of pairs of items and clusters, by a bisection of all rows at once.

    Args:
        graph: the graph.
        item: numbers of shape (n,); -1 has no edges.
        cluster: numbers of shape (n, k).

    Returns:
        int64 of shape (n, k), -1 where the graph has no such edge.
    """
    known = item >= 0
    number = np.where(known, item, 0)
    if graph.n_edges == 0:
        return np.full(cluster.shape, -1, np.int64)
    low = np.broadcast_to(graph.item_ptr[number][:, None], cluster.shape).copy()
    end = np.where(known, graph.item_ptr[number + 1], graph.item_ptr[number])[:, None]
    high = np.broadcast_to(end, cluster.shape).copy()
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        below = (middle < high) & (graph.edge_cluster[np.minimum(middle, graph.n_edges - 1)] < cluster)
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, middle)
    at = np.minimum(low, graph.n_edges - 1)
    hit = (low < end) & (graph.edge_cluster[at] == cluster)
    return np.where(hit, at, -1)

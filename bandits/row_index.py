"""The alive rows of a joiner by request and item.

Invariants: an entry leads to the newest alive row of its pair; the table is at most half full, and is made smaller
when most rows have gone, so that memory stays within a constant factor of what is alive.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned_zeros
from bandits.arena import Arena
from bandits.texts import PairColumns, Pairs, Texts, process_seed, smallest_table

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Int32 = npt.NDArray[np.int32]

_SMALLEST = 64
_SPARSE = 16  # a table this many times larger than what is in it is made smaller


class AliveColumns(NamedTuple):
    """Alive rows as compiled loops take them; `first` is the number of the first one."""

    first: int
    pairs: PairColumns
    request_first: int
    item_first: int
    ingested: Int64


class BatchTable(NamedTuple):
    """Rows of a batch.

    Attributes:
        latest: int32, slots: place of the last fresh row of a pair + 1, or 0.
        hashes: uint64 of each row.
        before: int64 of each fresh row, place of the fresh row of the same pair before it, -1 where there is none.
        fresh: bool of each row.
    """

    latest: Int32
    hashes: UInt64
    before: Int64
    fresh: Bool


@dataclass(frozen=True, eq=False)
class SoughtBatch:
    """Rows of a batch, as they were looked for.

    Attributes:
        pairs: of all rows, those that are not fresh included.
        ingested: int64 of each.
        table: what was found.
    """

    pairs: Pairs
    ingested: Int64
    table: BatchTable


class RowIndex:
    """Pairs of alive rows, and the index of them."""

    def __init__(self) -> None:
        from bandits import numba_rows

        self._compiled = numba_rows
        self.rows = Arena(
            request_at=np.int64, request_size=np.int64, item_at=np.int64, item_size=np.int64, hash=np.uint64
        )
        self._requests = Arena(byte=np.uint8)
        self._items = Arena(byte=np.uint8)
        self._seed = process_seed()
        self._table = _empty_table(_SMALLEST)
        self._entered = 0

    def __len__(self) -> int:
        """How many pairs have a row."""
        return self._entered

    def seek(self, pairs: Pairs, on_time: Bool, ingested: Int64, alive_ms: Int64, retention_ms: int) -> SoughtBatch:
        """Which rows of a batch are in no alive row nor earlier in the batch, as far as that is not forgotten.

        Args:
            pairs: of the batch's rows.
            on_time: bool of shape (n,); the others are not looked for.
            ingested: int64 of shape (n,), when the log took each; never decreasing.
            alive_ms: int64, ingestion times of the alive rows.
            retention_ms: after which a row is forgotten.
        """
        count = len(pairs)
        found = BatchTable(
            smallest_table(count), np.empty(count, np.uint64), np.empty(count, np.int64), np.empty(count, np.bool_)
        )
        if count:
            alive = self._alive(alive_ms)
            self._compiled.mark_fresh(
                pairs.columns, on_time, ingested, alive, self._table, self._seed, retention_ms, found
            )
        return SoughtBatch(pairs, ingested, found)

    def find(
        self,
        pairs: Pairs,
        ingested: Int64,
        alive_ms: Int64,
        batch: SoughtBatch,
        *,
        end: int,
        retention_ms: int,
        wait_ms: int,
    ) -> Int64:
        """Number of the first row that each click can see, int64; -1 where there is none.

        Args:
            pairs: of the clicks.
            ingested: int64 of shape (n,), when the log took each.
            alive_ms: as in `seek`.
            batch: rows that come with the clicks; the fresh ones are numbered from `end` on.
            end: number of the next row.
            retention_ms: a click that comes so much later sees a row no more.
            wait_ms: a click that came so much earlier does not either.
        """
        found = np.empty(len(pairs), np.int64)
        if len(pairs):
            rank = np.cumsum(batch.table.fresh) - 1
            self._compiled.find_rows(
                pairs.columns,
                ingested,
                self._alive(alive_ms),
                self._table,
                self._seed,
                batch.pairs.columns,
                batch.ingested,
                batch.table,
                rank,
                end,
                retention_ms,
                wait_ms,
                found,
            )
        return found

    def hashes(self, pairs: Pairs) -> UInt64:
        """Hashes of pairs, uint64; equal for equal ones, and of no meaning outside of this process."""
        out = np.empty(len(pairs), np.uint64)
        if len(pairs):
            self._compiled.hash_pairs(pairs.columns, self._seed, out)
        return out

    def add(self, pairs: Pairs, start: int) -> None:
        """Rows have come, numbered from `start` on."""
        if not len(self.rows):
            self.rows.start_at(start)
        count = len(pairs)
        if not count:
            return
        requests = _run_texts(pairs.request)
        at, size = _entered(self._requests, requests.texts)
        item_at, item_size = _entered(self._items, pairs.item)
        hashes = self.hashes(pairs)
        self.rows.append(
            request_at=at[requests.number],
            request_size=size[requests.number],
            item_at=item_at,
            item_size=item_size,
            hash=hashes,
        )
        if 2 * (self._entered + count) > len(self._table):
            self._resize(self._entered + count)
        self._entered += self._compiled.add_rows(self._alive(), hashes, start, self._table)

    def drop_before(self, number: int) -> None:
        """Rows below a number have gone."""
        rows = self.rows
        end = min(max(number, rows.first), rows.end)
        if end > rows.first:
            self._entered -= self._compiled.drop_rows(
                rows.view("hash")[: end - rows.first], rows.first, end, self._table
            )
        rows.drop_before(number)
        for column, arena in (("request_at", self._requests), ("item_at", self._items)):
            arena.drop_before(int(rows.view(column)[0]) if len(rows) else arena.end)
        if len(self._table) > max(_SMALLEST, _SPARSE * self._entered):
            self._resize(self._entered)

    def items(self, numbers: Int64) -> Texts:
        """Item ids of alive rows by number."""
        at, size = self.rows.take("item_at", numbers), self.rows.take("item_size", numbers)
        return Texts(self._items.view("byte"), at - self._items.first, size)

    def _alive(self, ingested: Int64 | None = None) -> AliveColumns:
        rows = self.rows
        pairs = PairColumns(
            self._requests.view("byte"),
            rows.view("request_at"),
            rows.view("request_size"),
            self._items.view("byte"),
            rows.view("item_at"),
            rows.view("item_size"),
        )
        times = rows.view("request_at") if ingested is None else ingested  # not read when rows are entered
        return AliveColumns(rows.first, pairs, self._requests.first, self._items.first, times)

    def _resize(self, count: int) -> None:
        larger = _empty_table(max(_SMALLEST, 1 << (4 * max(count, 1) - 1).bit_length()))
        self._compiled.move_rows(self._table, larger)
        self._table = larger


class _Runs(NamedTuple):
    """Texts without immediate repeats, and the number of each text among them."""

    texts: Texts
    number: Int64


def _run_texts(texts: Texts) -> _Runs:
    """The rows of a slate share their request."""
    starts = np.ones(len(texts), np.bool_)
    starts[1:] = (texts.at[1:] != texts.at[:-1]) | (texts.size[1:] != texts.size[:-1])
    return _Runs(texts.take(starts), np.cumsum(starts) - 1)


def _entered(arena: Arena, texts: Texts) -> tuple[Int64, Int64]:
    """Write texts behind what is in an arena; their places in it, and their sizes."""
    ends = np.cumsum(texts.size)
    places = arena.end + ends - texts.size
    arena.append(byte=texts.to_bytes())
    return places, texts.size


def _empty_table(slots: int) -> UInt64:
    """Slots of hash and number + 1; one line of the cache holds whole slots."""
    return aligned_zeros((slots, 2), np.uint64)

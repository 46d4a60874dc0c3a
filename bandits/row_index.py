"""The alive rows of a joiner by request and item.

Invariants: the newest alive row of a pair is found, if it has one; the table is at most half full, and is made
smaller when most rows have gone, so that memory stays within a constant factor of what is alive.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned_zeros
from bandits.arena import Arena
from bandits.texts import PairHashes, Pairs, Texts, process_seed, smallest_table

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
UInt32 = npt.NDArray[np.uint32]

_SMALLEST = 64
_SPARSE = 16  # a table this many times larger than what is in it is made smaller
_ODD = np.uint64(0x9E3779B97F4A7C15)
_COUNTS = 5  # see `bandits.numba_rows`


class AliveRows(NamedTuple):
    """Alive rows as compiled loops take them: the table, runs of one request, and rows.

    Attributes:
        slots: uint64 of shape (n, 2).
        counts: int64 of shape (5,): entries of the table, those of rows apart, alive runs, ends of both buffers.
        run_first: number of the first run.
        start: int64 of each run, number of its first row; as all that follows up to `run_apart`.
        request_at: int64, place of its request.
        request_size: int64, bytes of it.
        run_hash: uint64, of its request.
        run_apart: bool, True where its rows are entered one by one.
        request: uint8, the requests' bytes.
        request_first: number of the first of these.
        first: number of the first row.
        item_end: int64 of each row, where its item ends; it begins where that of the row before ends.
        item_hash: uint32, of it.
        item: uint8, the items' bytes.
        item_first: number of the first of these.
    """

    slots: UInt64
    counts: Int64
    run_first: int
    start: Int64
    request_at: Int64
    request_size: Int64
    run_hash: UInt64
    run_apart: Bool
    request: UInt8
    request_first: int
    first: int
    item_end: Int64
    item_hash: UInt32
    item: UInt8
    item_first: int


class BatchTable(NamedTuple):
    """Rows of a batch.

    Attributes:
        slots: int32: what is entered, see `bandits.numba_rows`, or 0.
        request_hash: uint64 of each row.
        item_hash: uint64 of each row.
        run: int32 of each row, place of the first row of its run.
        rank: int32, how many fresh rows lie before each row.
        before: int64 of each fresh row, place of the fresh row of the same pair before it, -1 where there is none.
        fresh: bool of each row.
    """

    slots: Int32
    request_hash: UInt64
    item_hash: UInt64
    run: Int32
    rank: Int32
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
        self.rows = Arena(item_end=np.int64, item_hash=np.uint32)
        self._runs = Arena(
            start=np.int64, request_at=np.int64, request_size=np.int64, run_hash=np.uint64, run_apart=np.bool_
        )
        self._requests = Arena(byte=np.uint8)
        self._items = Arena(byte=np.uint8)
        self._seed = process_seed()
        self._table = _empty_table(_SMALLEST)
        self._counts = np.zeros(_COUNTS, np.int64)

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
            smallest_table(count),
            np.empty(count, np.uint64),
            np.empty(count, np.uint64),
            np.empty(count, np.int32),
            np.empty(count, np.int32),
            np.empty(count, np.int64),
            np.empty(count, np.bool_),
        )
        if count:
            self._compiled.mark_fresh(
                pairs.columns, on_time, ingested, self._alive(), alive_ms, self._seed, retention_ms, found
            )
            pairs.hashes = PairHashes(found.request_hash, found.item_hash)
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
            self._compiled.find_rows(
                pairs.columns,
                ingested,
                self._alive(),
                alive_ms,
                self._seed,
                batch.pairs.columns,
                batch.ingested,
                batch.table,
                end,
                retention_ms,
                wait_ms,
                found,
            )
        return found

    def hashes(self, pairs: Pairs) -> UInt64:
        """One hash of each pair, uint64; of no meaning outside of this process."""
        request, item = pairs.hashes or self._hashes(pairs)
        return request * _ODD + item

    def add(self, pairs: Pairs, start: int) -> None:
        """Rows have come, numbered from `start` on."""
        if not len(self.rows):
            self.rows.start_at(start)
        count, place = len(pairs), 0
        if not count:
            return
        request_hash, item_hash = pairs.hashes or self._hashes(pairs)
        self._counts[3:] = self._requests.end, self._items.end
        self.rows.grow(count)
        self._runs.grow(count)
        self._requests.grow(int(pairs.request.size.sum()))
        self._items.grow(int(pairs.item.size.sum()))
        while True:
            place = self._compiled.add_rows(pairs.columns, request_hash, item_hash, start, self._alive(), place)
            if place == count:
                break
            self._resize(2 * len(self._table))
        self._runs.cut(self._runs.first + int(self._counts[2]))
        self._requests.cut(int(self._counts[3]))

    def drop_before(self, number: int) -> None:
        """Rows below a number have gone."""
        rows, runs = self.rows, self._runs
        end = min(max(number, rows.first), rows.end)
        if end > rows.first:
            runs.drop_before(runs.first + self._compiled.drop_rows(self._alive(), end))
            self._items.drop_before(int(rows.view("item_end")[end - rows.first - 1]))
            rows.drop_before(end)
            self._requests.drop_before(int(runs.view("request_at")[0]) if len(runs) else self._requests.end)
        entered = int(self._counts[0])
        if len(self._table) > max(_SMALLEST, _SPARSE * entered):
            self._resize(max(_SMALLEST, 1 << (4 * max(entered, 1) - 1).bit_length()))

    def items(self, numbers: Int64) -> Texts:
        """Item ids of alive rows by number; good after these have gone, too."""
        ends, place = self.rows.view("item_end") - self._items.first, numbers - self.rows.first
        starts = np.where(place > 0, ends.take(place - 1, mode="wrap"), 0) if len(place) else place
        sizes = ends.take(place) - starts
        return Texts.packed(Texts(self._items.view("byte"), starts, sizes).to_bytes(), sizes)

    def _hashes(self, pairs: Pairs) -> PairHashes:
        hashes = PairHashes(np.empty(len(pairs), np.uint64), np.empty(len(pairs), np.uint64))
        if len(pairs):
            self._compiled.hash_pairs(pairs.columns, self._seed, *hashes)
        return hashes

    def _alive(self) -> AliveRows:
        runs, rows = self._runs, self.rows
        return AliveRows(
            slots=self._table,
            counts=self._counts,
            run_first=runs.first,
            start=runs.view("start"),
            request_at=runs.view("request_at"),
            request_size=runs.view("request_size"),
            run_hash=runs.view("run_hash"),
            run_apart=runs.view("run_apart"),
            request=self._requests.view("byte"),
            request_first=self._requests.first,
            first=rows.first,
            item_end=rows.view("item_end"),
            item_hash=rows.view("item_hash"),
            item=self._items.view("byte"),
            item_first=self._items.first,
        )

    def _resize(self, slots: int) -> None:
        other = _empty_table(slots)
        self._compiled.move_rows(self._table, other)
        self._table = other


def _empty_table(slots: int) -> UInt64:
    """Slots of hash and mark; one line of the cache holds whole slots."""
    return aligned_zeros((slots, 2), np.uint64)

"""The RocksDB store of the embedded loop: everything that must survive, in one database.

Invariants: a micro-batch is one WriteBatch, synced; keys and values are raw bytes; the format version is checked
before anything else is read; numbers in keys are big-endian, so keys of a kind are in order of number; what damage
has made unreadable is told, never skipped.

Keys, by first byte:
    V            format version
    H            head: positions, graph version, whether learning is frozen
    C item_id    parameter row (ItemParameters)
    L offset     ledger record (OutcomeBatch)
    J sequence   change of the joiner
    I offset     source record of impressions; K offset: of clicks
    S number     graph put in force, and the ledger offset from which on (GraphSwitch)
    R sequence   join rule in force from this sequence on (JSON)
    D number     dead letter
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rocksdict

from freshet.v1 import state_pb2

FORMAT = 1

VERSION, HEAD = b"V", b"H"
ROW, LEDGER, CHANGE, IMPRESSIONS, CLICKS, GRAPH, RULE, DEAD = (bytes([c]) for c in b"CLJIKSRD")

_WRITE_BUFFER_BYTES = 32 << 20
_BLOCK_CACHE_BYTES = 32 << 20
_MAX_LOG_BYTES = 1 << 20
_FIRST_MANIFEST = "MANIFEST-000001"


class StoreError(RuntimeError):
    """The store cannot be used; the message is one sentence for the operator."""


class Store:
    """An open store.

    Args:
        folder: the database's folder; made if missing, unless `read_only`.
        read_only: look at a store, even while another process writes it, as it was when opened.

    Raises:
        StoreError: damaged, in use by another process, missing, or of another format version.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        if read_only and not (folder / "CURRENT").exists():
            raise StoreError(f"there is no store in {folder}")
        if not (folder / "CURRENT").exists() and _was_used(folder):  # RocksDB would begin anew
            raise StoreError(f"the store in {folder} is damaged: its file CURRENT is missing")
        access = rocksdict.AccessType.read_only() if read_only else rocksdict.AccessType.read_write()
        self._db: Any = None
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            self._db = rocksdict.Rdict(str(folder), _options(), access_type=access)
            version = self._db.get(VERSION)
            if version is None and not read_only and next(self._items(b""), None) is None:
                version = number_bytes(FORMAT)
                self._db.put(VERSION, version, write_opt=_synced())
        except Exception as error:  # rocksdict raises bare Exception
            self.close()
            raise StoreError(f"the store in {folder} cannot be opened: {error}") from error
        if version != number_bytes(FORMAT):
            found = int.from_bytes(version or b"", "big")
            self.close()
            raise StoreError(f"the store in {folder} has format {found}, this release reads format {FORMAT}")

    def close(self) -> None:
        """Close the database; its lock is free afterwards. What was written is on disk already."""
        if self._db is not None:
            # Closing flushes memory to tables, which fails on a full disk; the log holds it all the same.
            with contextlib.suppress(Exception):  # rocksdict raises bare Exception
                self._db.close()
            self._db = None

    def head(self) -> state_pb2.StoreHead:
        """The positions, all zero for a new store.

        Raises:
            StoreError: as `get`.
        """
        return state_pb2.StoreHead.FromString(self.get(HEAD, b"") or b"")

    def get(self, kind: bytes, name: bytes) -> bytes | None:
        """One value.

        Raises:
            StoreError: the files are damaged.
        """
        try:
            value: bytes | None = self._db.get(kind + name)
        except Exception as error:
            raise self._unreadable(error) from error
        return value

    def scan(self, kind: bytes, *, start: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Names (without the kind) and values of a kind in order, from a number on.

        Raises:
            StoreError: the files are damaged.
        """
        first = kind if start is None else kind + number_bytes(start)
        for key, value in self._items(first):
            if key[:1] != kind:
                return
            yield key[1:], value

    def numbered(self, kind: bytes, *, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Numbers and values of a numbered kind in start <= number < end."""
        for name, value in self.scan(kind, start=start):
            number = int.from_bytes(name, "big")
            if end is not None and number >= end:
                return
            yield number, value

    def write(self, batch: "Batch") -> None:
        """Write a batch, all of it or nothing; it is on disk when this returns.

        Raises:
            StoreError: it could not be written (disk full, I/O error).
        """
        try:
            self._db.write(batch.raw, _synced())
        except Exception as error:
            raise StoreError(f"the store in {self.folder} cannot be written: {error}") from error

    def _items(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from a key on, with their values; raises where damage cuts them short."""
        last = None
        try:
            items: Iterator[tuple[bytes, bytes]] = self._db.items(from_key=first)
            while (item := next(items, None)) is not None:
                last = item[0]
                yield item
            # The iterator of items ends in silence at a damaged block: only this one tells.
            end = self._db.iter()
            end.seek(first if last is None else last)
            if end.valid():
                end.next()
            end.status()
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"the store in {self.folder} cannot be read: {error}")


class Batch:
    """Puts and deletes that are written together."""

    def __init__(self) -> None:
        self.raw: Any = rocksdict.WriteBatch(raw_mode=True)

    def put_head(self, head: state_pb2.StoreHead) -> None:
        """Write the positions."""
        self.raw.put(HEAD, head.SerializeToString())

    def put(self, kind: bytes, name: bytes | int, value: bytes) -> None:
        """Write one value."""
        self.raw.put(kind + (number_bytes(name) if isinstance(name, int) else name), value)

    def put_all(self, kind: bytes, names: list[str], values: list[bytes]) -> None:
        """Write many values of a kind."""
        put = self.raw.put
        for name, value in zip(names, values, strict=True):
            put(kind + name.encode(), value)

    def delete(self, kind: bytes, name: bytes) -> None:
        """Delete one value."""
        self.raw.delete(kind + name)

    def delete_below(self, kind: bytes, start: int, end: int) -> None:
        """Delete the numbers start <= number < end of a kind."""
        if end > start:
            self.raw.delete_range(kind + number_bytes(start), kind + number_bytes(end))


def number_bytes(number: int) -> bytes:
    """Eight big-endian bytes, so that keys sort by number."""
    return number.to_bytes(8, "big")


def _was_used(folder: Path) -> bool:
    """Whether a store was ever open here; a crash while it was made leaves its first manifest and nothing else."""
    manifests = (path.name for path in folder.glob("MANIFEST-*"))
    return any(name != _FIRST_MANIFEST for name in manifests) or any(
        path.suffix in {".sst", ".log"} for path in folder.glob("*.*")
    )


def _options() -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MAX_LOG_BYTES)
    # A torn tail of the log was never acknowledged; a hole in the middle is damage and must be told.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(_BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(table)
    return options


def _synced() -> Any:
    write_options = rocksdict.WriteOptions()
    write_options.sync = True
    return write_options

"""The store: one batch whole or not at all, who may open it, what version it has."""

from pathlib import Path

import pytest
import rocksdict

from freshet.v1 import state_pb2
from streams.store import (
    CHANGE,
    DEAD,
    FORMAT,
    IMPRESSIONS,
    LEDGER,
    ROW,
    VERSION,
    Batch,
    Store,
    StoreError,
    number_bytes,
)


def put(store: Store, kind: bytes, *numbers: int) -> None:
    batch = Batch()
    for number in numbers:
        batch.put(kind, number, b"value %d" % number)
    store.write(batch)


def test_what_was_written_together_is_there_after_reopening(tmp_path: Path) -> None:
    """Puts of all kinds, the head, deletes and range deletes of one batch."""
    store = Store(tmp_path)
    put(store, CHANGE, 1, 2, 3, 300)
    batch = Batch()
    batch.put_head(state_pb2.StoreHead(ledger_end=7, frozen=True))
    batch.put_all(ROW, ["é", "b"], [b"1", b""])
    batch.delete(ROW, b"absent")
    batch.delete_below(CHANGE, 0, 3)
    batch.delete_below(CHANGE, 5, 5)
    store.write(batch)
    store.close()
    store = Store(tmp_path)
    assert store.head() == state_pb2.StoreHead(ledger_end=7, frozen=True)
    assert list(store.scan(ROW)) == [(b"b", b""), ("é".encode(), b"1")]
    assert store.get(ROW, b"b") == b""
    assert store.get(ROW, b"absent") is None
    assert list(store.numbered(CHANGE)) == [(3, b"value 3"), (300, b"value 300")]
    store.close()


def test_a_batch_that_was_not_written_leaves_nothing(tmp_path: Path) -> None:
    """Building a batch touches no disk."""
    store = Store(tmp_path)
    batch = Batch()
    batch.put(LEDGER, 1, b"x")
    assert list(store.numbered(LEDGER)) == []
    store.close()


def test_numbers_of_a_kind_come_in_order_and_end_with_it(tmp_path: Path) -> None:
    """Big-endian keys: 255 before 256; neighbours of other kinds are not seen; bounds include start, not end."""
    store = Store(tmp_path)
    numbers = [0, 1, 255, 256, 65_536, 2**40, 2**63]
    for kind in (LEDGER, CHANGE, DEAD, IMPRESSIONS):
        put(store, kind, *reversed(numbers))
    assert [number for number, _ in store.numbered(LEDGER)] == numbers
    assert [number for number, _ in store.numbered(LEDGER, start=255, end=65_536)] == [255, 256]
    assert [number for number, _ in store.numbered(LEDGER, start=2**63 + 1)] == []
    assert [number for number, _ in store.numbered(LEDGER, start=2, end=2)] == []
    store.close()


def test_a_second_opener_is_refused_with_one_sentence(tmp_path: Path) -> None:
    """Two writers would both believe to be the only one; after closing, the store is free."""
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=f"^the store in {tmp_path} cannot be opened: .*lock"):
        Store(tmp_path)
    put(store, LEDGER, 1)
    store.close()
    Store(tmp_path).close()


def test_a_live_store_can_be_looked_at_as_it_was_when_opened(tmp_path: Path) -> None:
    """A reader sees what was committed before it opened, whole, and cannot write."""
    store = Store(tmp_path)
    put(store, LEDGER, *range(100))
    view = Store(tmp_path, read_only=True)
    put(store, LEDGER, *range(100, 200))
    assert [number for number, _ in view.numbered(LEDGER)] == [*range(100)]
    with pytest.raises(StoreError, match="cannot be written"):
        put(view, LEDGER, 500)
    view.close()
    newer = Store(tmp_path, read_only=True)
    assert len(list(newer.numbered(LEDGER))) == 200
    newer.close()
    store.close()


def test_looking_at_no_store_makes_none(tmp_path: Path) -> None:
    """A mistyped path is an error, not a new database."""
    with pytest.raises(StoreError, match="there is no store in"):
        Store(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    """A process killed while its store was being made finds it empty, not damaged, when it is started again."""
    store = Store(tmp_path / "model")
    store.close()
    for left in (["MANIFEST-000001", "IDENTITY", "LOCK", "LOG", "000001.dbtmp"], ["MANIFEST-000001"], []):
        folder = tmp_path / f"left-{len(left)}"
        folder.mkdir()
        for name in left:
            (folder / name).write_bytes(b"")
        store = Store(folder)
        put(store, LEDGER, 1)
        store.close()
    (tmp_path / "model" / "CURRENT").unlink()
    with pytest.raises(StoreError, match="its file CURRENT is missing"):
        Store(tmp_path / "model")


@pytest.mark.parametrize("version", [number_bytes(FORMAT + 1), number_bytes(0), b"", b"text"])
@pytest.mark.parametrize("read_only", [True, False])
def test_another_format_is_refused_before_anything_is_read(tmp_path: Path, version: bytes, read_only: bool) -> None:
    """One sentence with both versions; the store is left as it is and free."""
    store = Store(tmp_path)
    store._db.put(VERSION, version)
    store.close()
    for _ in range(2):
        with pytest.raises(
            StoreError, match=rf"^the store in .* has format \d+, this release reads format {FORMAT}$"
        ):
            Store(tmp_path, read_only=read_only)


def test_a_database_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    """Keys without a version are not ours: they must not be mistaken for a new store."""
    database = rocksdict.Rdict(str(tmp_path), rocksdict.Options(raw_mode=True))
    database.put(b"Lsomething", b"else")
    database.close()
    with pytest.raises(StoreError, match="has format 0"):
        Store(tmp_path)


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """Also where the parent cannot hold a folder."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot be opened"):
            Store(path)


def test_a_disk_that_is_full_does_not_stop_a_store_from_closing(tmp_path, monkeypatch):
    """What was written is in the log already: a close that cannot flush lets go of the lock all the same."""

    class FullDisk:
        def close(self):
            raise Exception("IO error: No space left on device")

    store = Store(tmp_path / "store")
    database = store._db
    store._db = FullDisk()
    store.close()
    database.close()
    Store(tmp_path / "store").close()

"""Damaged files: the store says so or is a consistent older prefix, never wrong rows."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bandits.backend import choose_backend
from bandits.learner import Learner
from bandits.sums import state_hash
from streams.graph_history import graph_folder, restore_graph
from streams.outcome_codec import decode_outcomes
from streams.restore import restore_joiner, restore_learner
from streams.store import DEAD, LEDGER, Batch, Store, StoreError
from tests.streams.loops import ITEMS, RULE, clicked, make_graph, offer, open_loop, settle, shown, started

BACKEND = choose_backend("numpy")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a kill leaves it: 80 micro-batches in the write-ahead log."""
    folder = tmp_path_factory.mktemp("grown")
    loop = started(folder / "live")
    for n in range(40):
        for future in offer(loop, shown(f"r{n}", *ITEMS), clicked(f"r{n}", ITEMS[n % 6])):
            settle([future])
    shutil.copytree(folder / "live", folder / "killed")
    loop.stop(grace_s=10)
    return folder / "killed"


@pytest.fixture(scope="module")
def flushed(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, opened again so that the log has become a table file."""
    folder = tmp_path_factory.mktemp("flushed") / "data"
    shutil.copytree(grown, folder)
    store = Store(folder / "store")
    store._db.flush()
    store.close()
    assert list((folder / "store").glob("*.sst"))
    return folder


def check_consistent(folder: Path) -> int:
    """Rows, head and ledger agree; how many ledger records there are."""
    store = Store(folder / "store")
    try:
        head = store.head()
        records = [record for _, record in store.numbered(LEDGER)]
        assert len(records) == head.ledger_end == head.applied_position
        if not head.graph_version:
            return 0
        graph = restore_graph(store, folder, head)
        rows = restore_learner(store, head, graph, BACKEND)
        folded = Learner.empty(graph, BACKEND)
        for offset, record in enumerate(records):
            folded.apply(decode_outcomes(record), offset=offset)
        assert state_hash(graph, rows.sums) == state_hash(graph, folded.sums)
        assert restore_joiner(store, RULE).sequence == len(records)
        return len(records)
    finally:
        store.close()


def damage_and_check(source: Path, target: Path, pattern: str, rng: random.Random) -> str:
    """Damage one file of a copy; what came of it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = [path for path in (target / "store").glob(pattern) if path.stat().st_size > 200]
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if rng.random() < 0.4:
        path.write_bytes(data[:at])
    else:
        for place in range(at, min(at + rng.choice((1, 1, 8, 5_000)), len(data))):
            data[place] ^= rng.randrange(1, 256)
        path.write_bytes(data)
    try:
        return "whole" if check_consistent(target) == 80 else "older"
    except StoreError:
        return "refused"


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_write_ahead_log_gives_an_error_or_an_older_state(grown: Path, tmp_path: Path, seed: int) -> None:
    """Cut or flipped anywhere: what opens is what some earlier moment was, in all its parts."""
    rng = random.Random(seed)
    results = Counter(damage_and_check(grown, tmp_path / "copy", "*.log", rng) for _ in range(12))
    assert results["refused"] + results["older"] > 6
    assert results["older"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_table_file_gives_an_error(flushed: Path, tmp_path: Path, seed: int) -> None:
    """A block that cannot be read is told, not skipped: rows that vanish would start again at zero."""
    rng = random.Random(seed)
    results = Counter(damage_and_check(flushed, tmp_path / "copy", "*.sst", rng) for _ in range(12))
    assert results["refused"] > 6
    assert results["older"] == 0


@pytest.mark.parametrize("pattern", ["MANIFEST-*", "CURRENT", "*.sst"])
def test_a_missing_file_is_an_error(flushed: Path, tmp_path: Path, pattern: str) -> None:
    """Also the loop refuses, and leaves the lock free."""
    shutil.copytree(flushed, tmp_path / "copy")
    for path in (tmp_path / "copy" / "store").glob(pattern):
        path.unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^the store in"):
            open_loop(tmp_path / "copy")


def test_a_scan_does_not_end_in_silence_at_a_damaged_block(tmp_path: Path) -> None:
    """Every flipped byte of a table's data: the scan is whole or raises."""
    store = Store(tmp_path / "store")
    batch = Batch()
    for number in range(2_000):
        batch.put(DEAD, number, random.Random(number).randbytes(40))
    store.write(batch)
    store._db.flush()
    store.close()
    table = next((tmp_path / "store").glob("*.sst"))
    data = table.read_bytes()
    refused = 0
    for at in range(100, len(data) // 2, len(data) // 20):
        table.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        damaged = None
        try:
            damaged = Store(tmp_path / "store", read_only=True)
            assert len(list(damaged.numbered(DEAD))) == 2_000
        except StoreError:
            refused += 1
        finally:
            if damaged:
                damaged.close()
    assert refused == 10


@pytest.mark.parametrize("name", ["manifest.json", "item_ptr.npy", "edge_cluster.npy"])
def test_a_damaged_graph_stops_the_start_with_one_sentence(grown: Path, tmp_path: Path, name: str) -> None:
    """Rows without their graph mean nothing; the lock is free afterwards."""
    shutil.copytree(grown, tmp_path / "copy")
    path = graph_folder(tmp_path / "copy", make_graph().version) / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^the graph that the store in .* needs cannot be loaded: "):
            open_loop(tmp_path / "copy")

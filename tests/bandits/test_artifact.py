"""The graph on disk: what loads equals what was saved, and nothing damaged loads."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.artifact import FORMAT, DamagedGraph, load_graph, read_manifest, save_graph
from bandits.graph import Graph, build_graph

ARRAYS = ("centroids", "item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge")
FILES = (*ARRAYS, "item_ids", "item_id_ends")


def make_graph(n_items: int = 40, n_clusters: int = 7, dim: int = 3, seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    item, cluster = np.nonzero(rng.random((n_items, n_clusters)) < 0.4)
    return build_graph(
        version="2024-05-01",
        centroids=rng.normal(size=(n_clusters, dim)),
        n_clusters=n_clusters,
        item_ids=[f"item\n{number}é" for number in range(n_items)],
        edge_item=item,
        edge_cluster=cluster,
    )


def is_same(left: Graph, right: Graph) -> bool:
    same_names = left.version == right.version and list(left.item_ids) == list(right.item_ids)
    return same_names and all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ARRAYS)


def rewrite_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and make its checksum fit, as a hostile or mistaken writer would."""
    path = directory / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["sha256"]
    change(body)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps(body | {"sha256": hashlib.sha256(canonical).hexdigest()}))


def replace_array(directory: Path, name: str, array: np.ndarray) -> None:
    """Replace an array by another, with a manifest to match."""
    path = directory / f"{name}.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    data = path.read_bytes()
    entry = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    rewrite_manifest(directory, lambda body: body["files"].update({name: entry}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_graph(make_graph(), tmp_path / "graph", attributes={"made_by": "a test"})
    return tmp_path / "graph"


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_graph_comes_back_as_it_was(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Loading gives the saved graph, whatever its size, ids and attributes, copied or mapped."""
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
    ids = data.draw(st.lists(text, unique=True, max_size=8))
    n_clusters = data.draw(st.integers(0, 6))
    pairs = [(item, cluster) for item in range(len(ids)) for cluster in range(n_clusters)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    dim = data.draw(st.integers(0, 3))
    value = st.floats(width=32, allow_nan=False, allow_infinity=False)
    row = st.lists(value, min_size=dim, max_size=dim)
    graph = build_graph(
        version=data.draw(st.text(st.characters(codec="utf-8"), min_size=1)),
        centroids=data.draw(st.lists(row, min_size=n_clusters, max_size=n_clusters)),
        n_clusters=n_clusters,
        item_ids=ids,
        edge_item=[item for item, _ in edges],
        edge_cluster=[cluster for _, cluster in edges],
    )
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
    attributes = data.draw(st.dictionaries(text, text, max_size=3))
    directory = tmp_path_factory.mktemp("graphs") / "graph"
    save_graph(graph, directory, attributes=attributes)
    assert is_same(load_graph(directory), graph)
    assert is_same(load_graph(directory, mmap=True), graph)
    assert read_manifest(directory).attributes == attributes


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """The same graph gives the same bytes, so that artifacts can be compared and cached by content."""
    save_graph(load_graph(saved), tmp_path / "again", attributes={"made_by": "a test"})
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(files) == {"manifest.json", *(f"{name}.npy" for name in FILES)}


def test_numpy_reads_every_array(saved: Path) -> None:
    """The .npy files are what NumPy itself would have written, so that other tools read them."""
    graph = load_graph(saved)
    for name in ARRAYS:
        read = np.load(saved / f"{name}.npy", allow_pickle=False)
        assert read.dtype == getattr(graph, name).dtype
        assert np.array_equal(read, getattr(graph, name))


@pytest.mark.parametrize("mmap", [False, True])
def test_loaded_arrays_cannot_be_written(saved: Path, mmap: bool) -> None:
    """A served graph version cannot change under its readers."""
    graph = load_graph(saved, mmap=mmap)
    for name in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(graph, name)[...] = 0
    save_graph(make_graph(0, 0, 0), saved.with_name("empty"))
    empty = load_graph(saved.with_name("empty"), mmap=mmap)
    assert not any(getattr(empty, name).flags.writeable for name in ARRAYS)


def test_an_existing_target_is_refused_and_left_alone(saved: Path) -> None:
    """Saving never overwrites, so that a version once published stays what it was."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match="expected a new directory"):
        save_graph(make_graph(seed=1), saved)
    assert before == {path.name: path.read_bytes() for path in saved.iterdir()}


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash on the way leaves no directory under the name, and an error cleans up its draft."""

    def full_disk(self: Path, target: Path) -> Path:
        assert {path.name for path in self.iterdir()} == {"manifest.json", *(f"{name}.npy" for name in FILES)}
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_graph(make_graph(), tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_graph_is_not_saved(tmp_path: Path) -> None:
    """What would be refused on loading, or could not be written, is refused on saving."""
    graph = make_graph()
    good = vars(graph) | {}
    bad_ids = [*list(graph.item_ids)[:-1], "\ud800"]
    for name, value in (("version", ""), ("item_ids", bad_ids), ("item_ptr", graph.item_ptr[:-1])):
        fields = {key: good[key] for key in ("version", "item_ids", *ARRAYS)} | {name: value}
        with pytest.raises(ValueError, match=name):
            save_graph(Graph(**fields), tmp_path / "graph")
    with pytest.raises(ValueError, match="attributes"):
        save_graph(graph, tmp_path / "graph", attributes={"count": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="attributes"):
        save_graph(graph, tmp_path / "graph", attributes={"essay": "x" * (1 << 20)})
    assert list(tmp_path.iterdir()) == []


def test_reformatting_the_manifest_is_no_damage(saved: Path) -> None:
    """Only values count, so that a tool may pretty-print the manifest."""
    path = saved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert is_same(load_graph(saved), make_graph())


def damage(directory: Path, random_: random.Random) -> str:
    """Damage a graph directory in one random way; says how."""
    path = random_.choice(sorted(directory.iterdir()))
    data = path.read_bytes()
    at = random_.randrange(len(data))
    way = random_.choice(["flip", "flip", "flip", "truncate", "delete", "swap", "zero", "append", "edit", "edit"])
    if way == "flip":
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :])
    elif way == "truncate":
        path.write_bytes(data[: random_.choice([0, 1, 9, at, len(data) - 1])])
    elif way == "delete":
        path.unlink()
    elif way == "swap":
        other = random_.choice([other for other in sorted(directory.iterdir()) if other != path])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif way == "zero":
        path.write_bytes(data[:at] + bytes(len(data) - at))
    elif way == "append":
        path.write_bytes(data + random_.choice([b"\0", b" ", b"{}", data]))
    else:
        return f"edit {edit_manifest(directory, random_)}"
    return f"{way} {path.name} at {at}"


def edit_manifest(directory: Path, random_: random.Random) -> str:
    """Replace one random value of the manifest by another, with a checksum to match; says which."""
    junk = [None, -1, 0, 1, 2**31, 2**62, 10**30, 1.5, True, "", "x", "<i8", "|O", [], [0], [2**40, 2**40], {}]
    steps: list[str] = []

    def change(body: dict[str, Any]) -> None:
        where = body
        while True:
            key = random_.choice(sorted(where))
            steps.append(key)
            if not isinstance(where[key], dict) or not where[key] or random_.random() < 0.1:
                break
            where = where[key]
        where[key] = random_.choice(junk)
        steps.append(repr(where[key]))

    rewrite_manifest(directory, change)
    return " ".join(steps)


def test_damage_never_passes_for_a_graph(saved: Path, tmp_path: Path) -> None:
    """Whatever happens to the bytes, the directory is refused by name in one line, or its graph is unharmed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    random_ = random.Random(seed)
    whole = make_graph()
    refused = 0
    for _ in range(400):
        copy = tmp_path / "copy"
        shutil.copytree(saved, copy)
        what = damage(copy, random_)
        try:
            graph = load_graph(copy, mmap=random_.random() < 0.5)
        except DamagedGraph as error:
            refused += 1
            message = str(error)
            assert str(copy) in message, what
            assert ": expected " in message, what
            assert ", got " in message, what
            assert "\n" not in message, what
            assert len(message) < 1000, what
        else:
            # An edit may rename the version: with a checksum to match that is another graph, not a damaged one.
            renamed = what.startswith("edit version")
            assert renamed or is_same(graph, whole), what
        shutil.rmtree(copy)
    assert refused > 300


def test_every_truncation_and_every_deletion_is_refused(saved: Path) -> None:
    """No file may be missing or short by any number of bytes, down to none at all."""
    for path in sorted(saved.iterdir()):
        data = path.read_bytes()
        for size in sorted({*range(12), *range(12, len(data), 37), len(data) - 2}):
            path.write_bytes(data[:size])
            with pytest.raises(DamagedGraph, match=path.name):
                load_graph(saved)
        path.unlink()
        with pytest.raises(DamagedGraph, match=rf"{path.name}: expected a file, got no such file"):
            load_graph(saved)
        path.mkdir()
        with pytest.raises(DamagedGraph, match=path.name):
            load_graph(saved)
        path.rmdir()
        path.write_bytes(data)
    assert is_same(load_graph(saved), make_graph())


@pytest.mark.parametrize("field", ["version", "attributes", "n_items", "sha256", "files", "added"])
def test_an_edited_manifest_is_refused(saved: Path, field: str) -> None:
    """A manifest answers for itself: a renamed version or a changed attribute is seen."""
    path = saved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: "other"}))
    with pytest.raises(
        DamagedGraph, match=r"manifest\.json: expected contents of sha256 '[0-9a-z]+', got [0-9a-f]+$"
    ):
        load_graph(saved)


@pytest.mark.parametrize("count", [2**31, 2**48, 2**62, 2**64, 10**30])
@pytest.mark.parametrize("name", ["n_clusters", "n_items", "n_edges", "dim"])
def test_claimed_counts_claim_no_memory(saved: Path, name: str, count: int) -> None:
    """A consistent claim of any size, even of endless rows of nothing, is held against the files first."""

    def claim(body: dict[str, Any]) -> None:
        body[name] = count
        shapes = {
            "n_clusters": {"centroids": [count, 0], "cluster_ptr": [count + 1]},
            "n_items": {"item_ptr": [count + 1], "item_id_ends": [count + 1]},
            "n_edges": {"edge_cluster": [count], "cluster_item": [count], "cluster_edge": [count]},
            "dim": {"centroids": [7, count]},
        }
        for file, shape in shapes[name].items():
            body["files"][file]["shape"] = shape
        if name == "n_clusters":
            body["dim"] = 0
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 0), }}".ljust(117) + "\n"
            data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            (saved / "centroids.npy").write_bytes(data)
            body["files"]["centroids"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    rewrite_manifest(saved, claim)
    with pytest.raises(DamagedGraph, match="expected"):
        load_graph(saved)


def test_no_directory_is_refused(tmp_path: Path) -> None:
    """A mistyped path is told as such."""
    with pytest.raises(DamagedGraph, match="expected a graph directory, got no such directory"):
        load_graph(tmp_path / "nowhere")
    with pytest.raises(DamagedGraph, match=r"manifest\.json: expected a file"):
        load_graph(tmp_path)


def test_a_newer_format_is_refused_as_such(saved: Path) -> None:
    """An old server says that the format is newer, not that a checksum is wrong."""
    rewrite_manifest(saved, lambda body: body.update(format=FORMAT + 1, added="in the future"))
    with pytest.raises(DamagedGraph, match="expected format 1, got format 2"):
        load_graph(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"sha256"',
        "{}",
        "[" * 100_000,
        '{"format":' + "9" * 5000 + "}",
        " " * (1 << 21),
        "\ufeff{}",
    ],
)
def test_a_manifest_of_nonsense_is_refused(saved: Path, text: str) -> None:
    """JSON that is deep, long, huge or not an object ends in the same error as any other damage."""
    (saved / "manifest.json").write_text(text)
    with pytest.raises(DamagedGraph, match=r"manifest\.json: expected"):
        load_graph(saved)


HOSTILE = {
    "pointers that descend": ("cluster_ptr", lambda a: a[::-1].copy()),
    "id ends beyond the blob": ("item_id_ends", lambda a: a * 2),
    "id ends that cut a character": ("item_id_ends", lambda a: np.where((a > 0) & (a < a[-1]), a - 1, a)),
    "ids that are no UTF-8": ("item_ids", lambda a: a | np.uint8(0x80)),
    "ids that repeat": ("item_ids", lambda a: np.full_like(a, ord("x"))),
    "clusters out of range": ("edge_cluster", lambda a: a + np.int32(100)),
    "negative items": ("cluster_item", lambda a: -a - 1),
    "edges crossed": ("cluster_edge", lambda a: np.roll(a, 1)),
    "centroids of NaN": ("centroids", lambda a: a * np.float32("nan")),
    "another dtype": ("edge_cluster", lambda a: a.astype(np.int64)),
    "another shape": ("centroids", lambda a: a.T.copy()),
    "column-major": ("centroids", lambda a: np.asfortranarray(a)),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("mmap", [False, True])
def test_hostile_arrays_with_fitting_checksums_are_refused(saved: Path, case: str, mmap: bool) -> None:
    """Checksums only show accidents: contents are checked too."""
    name, change = HOSTILE[case]
    replace_array(saved, name, change(np.load(saved / f"{name}.npy", allow_pickle=False)))
    with pytest.raises(DamagedGraph, match=str(saved)):
        load_graph(saved, mmap=mmap)


def test_pointers_whose_differences_overflow_are_refused(tmp_path: Path) -> None:
    """Four leaps of 2^62 come back to nought: every difference is positive, and expanding them would crash."""
    graph = build_graph(
        version="v1", centroids=[], n_clusters=2, item_ids=list("abcde"), edge_item=[4, 4], edge_cluster=[0, 1]
    )
    save_graph(graph, tmp_path / "graph")
    leaps = np.array([0, 1 << 62, -(1 << 63), -(1 << 62), 0, 2])
    assert (np.diff(leaps) > 0).all()
    replace_array(tmp_path / "graph", "item_ptr", leaps)
    with pytest.raises(DamagedGraph, match=r"item_ptr\.npy: expected ascending offsets from 0 to 2"):
        load_graph(tmp_path / "graph")


def test_a_header_is_never_evaluated(saved: Path) -> None:
    """A header that is not letter by letter the expected one is refused, whatever Python it holds."""
    path = saved / "item_ptr.npy"
    data = path.read_bytes()
    for old, new in (
        (b"'<i8'", b"'|O8'"),
        (b"False", b"True "),
        (b"'<i8'", b"[]*99"),
        (b"NUMPY\x01", b"NUMPY\x02"),
    ):
        changed = data.replace(old, new, 1)
        path.write_bytes(changed)
        digest = hashlib.sha256(changed).hexdigest()
        rewrite_manifest(saved, lambda body, digest=digest: body["files"]["item_ptr"].update(sha256=digest))
        with pytest.raises(DamagedGraph, match=r"item_ptr\.npy: expected a header"):
            load_graph(saved)

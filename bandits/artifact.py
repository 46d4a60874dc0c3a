"""The graph on disk: a directory with a manifest and one plain .npy file an array.

Invariants: a directory is complete or does not exist under its name; the same graph gives the same bytes; what
loads equals what was saved, and anything else is refused as `DamagedGraph` before memory is claimed for it. Files
are read as data: their headers are compared, never evaluated. This is the one module of the package that touches
files.
"""

import hashlib
import json
import mmap as memory_map
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned
from bandits.graph import Graph, check_graph

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_COUNT = 1 << 48  # so that no shape overflows, not even one with a zero in it

_MAGIC = b"\x93NUMPY\x01\x00"
_COUNTS = ("n_clusters", "n_items", "n_edges", "dim")
_DTYPES = {
    "centroids": "<f4",
    "item_ids": "|u1",  # UTF-8 of all ids, one after the other: an id may hold any character, newlines too
    "item_id_ends": "<i8",
    "item_ptr": "<i8",
    "edge_cluster": "<i4",
    "cluster_ptr": "<i8",
    "cluster_item": "<i4",
    "cluster_edge": "<i8",
    "published_ms": "<i8",
}
_OPTIONAL = frozenset({"published_ms"})  # absent where the graph says nothing of it


class DamagedGraph(ValueError):
    """A graph directory that cannot be trusted; the message names directory, file, expectation and finding."""


@dataclass(frozen=True)
class Manifest:
    """What a graph directory says of itself.

    Attributes:
        version: name of the graph version.
        counts: n_clusters, n_items, n_edges and dim.
        attributes: free-form, as given to `save_graph`.
        files: by array name: dtype, shape, bytes and sha256.
    """

    version: str
    counts: Mapping[str, int]
    attributes: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]


def save_graph(graph: Graph, directory: Path, *, attributes: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the graph as a new directory, all of it or nothing, on disk when the call returns.

    Args:
        graph: the graph; it is checked first.
        directory: must not exist; its parent must.
        attributes: free-form, kept in the manifest. They do not change the graph but do change the bytes.

    Raises:
        ValueError: the graph breaks an invariant, an id is no valid Unicode, or the attributes are no strings or
            too many.
        FileExistsError: there is something under that name.
    """
    check_graph(graph)
    if not all(isinstance(part, str) for pair in attributes.items() for part in pair):
        raise ValueError(f"attributes: expected strings, got {dict(attributes)!r:.80}")
    if os.path.lexists(directory):
        raise FileExistsError(f"{directory}: expected a new directory, got one that exists")
    arrays = _arrays(graph)
    counts = (graph.n_clusters, graph.n_items, graph.n_edges, graph.centroids.shape[1])
    body: dict[str, Any] = {"format": FORMAT, "version": graph.version, "attributes": dict(attributes)}
    body |= dict(zip(_COUNTS, counts, strict=True))
    draft = directory.with_name(f".{directory.name}.{os.urandom(8).hex()}.tmp")
    draft.mkdir()
    try:
        body["files"] = {name: _write_array(draft, name, array) for name, array in arrays.items()}
        body["sha256"] = _checksum(body)
        text = json.dumps(body, indent=2, sort_keys=True, allow_nan=False) + "\n"
        if len(text) > MAX_MANIFEST_BYTES:
            raise ValueError(f"attributes: expected a manifest of {MAX_MANIFEST_BYTES} bytes, got {len(text)}")
        _write(draft / MANIFEST, text.encode("ascii"))
        _sync_directory(draft)
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync_directory(directory.parent)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a graph directory, checked against its own checksum but not against the files.

    Raises:
        DamagedGraph: there is none, it is damaged, or a newer Freshet wrote it.
    """
    data = _read_manifest_bytes(directory)
    try:
        body = json.loads(data)
        claimed = body.pop("sha256", None) if isinstance(body, dict) else None
        actual = _checksum(body)
    except (ValueError, RecursionError) as error:
        raise _damaged(directory, MANIFEST, "JSON in UTF-8", error) from error
    if not isinstance(body, dict):
        raise _damaged(directory, MANIFEST, "a JSON object", type(body).__name__)
    if type(body.get("format")) is not int or body["format"] != FORMAT:
        raise _damaged(directory, MANIFEST, f"format {FORMAT}", f"format {body.get('format')!r:.40}")
    if claimed != actual:
        raise _damaged(directory, MANIFEST, f"contents of sha256 {claimed!r:.80}", actual)
    _check_shape_of_manifest(directory, body)
    counts = {name: body[name] for name in _COUNTS}
    return Manifest(body["version"], counts, body["attributes"], body["files"])


def load_graph(directory: Path, *, mmap: bool = False) -> Graph:
    """Read a graph directory and check every file, checksum and invariant.

    Args:
        directory: as written by `save_graph`.
        mmap: map the arrays instead of copying them, so that processes share the memory. The files must then stay
            as they are for as long as the graph lives.

    Returns:
        A graph with read-only arrays.

    Raises:
        DamagedGraph: whatever is wrong.
    """
    manifest = read_manifest(directory)
    arrays = {name: _read_array(directory, name, entry, mmap) for name, entry in manifest.files.items()}
    blob, ends = arrays.pop("item_ids"), arrays.pop("item_id_ends")
    _check_offsets(directory, "item_id_ends", ends, len(blob))
    _check_offsets(directory, "item_ptr", arrays["item_ptr"], manifest.counts["n_edges"])
    _check_offsets(directory, "cluster_ptr", arrays["cluster_ptr"], manifest.counts["n_edges"])
    data = blob.tobytes()
    try:
        item_ids = [data[start:end].decode() for start, end in pairwise(ends.tolist())]
    except UnicodeDecodeError as error:
        raise _damaged(directory, "item_ids.npy", "ids in UTF-8", error) from error
    arrays["edge_cluster"] = aligned(arrays["edge_cluster"])
    arrays["edge_cluster"].flags.writeable = False
    published_ms = arrays.pop("published_ms", None)
    graph = Graph(version=manifest.version, item_ids=item_ids, published_ms=published_ms, edits=None, **arrays)
    try:
        check_graph(graph)
    except ValueError as error:
        raise _damaged(directory, "", "arrays that agree", error) from error
    return graph


def _arrays(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    """Every array of the directory, by name, little-endian and contiguous."""
    try:
        ids = [item_id.encode() for item_id in graph.item_ids]
    except UnicodeEncodeError as error:
        raise ValueError(f"item_ids: expected valid Unicode, got {error.object!r:.80}") from error
    ends = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)), out=ends[1:])
    ours = {"item_ids": np.frombuffer(b"".join(ids), np.uint8), "item_id_ends": ends}
    arrays = {name: ours[name] if name in ours else getattr(graph, name) for name in _DTYPES}
    given = {name: array for name, array in arrays.items() if array is not None}
    return {name: np.ascontiguousarray(array, _DTYPES[name]) for name, array in given.items()}


def _expected_shapes(counts: Mapping[str, int], id_bytes: int) -> dict[str, tuple[int, ...]]:
    clusters, items, edges = (counts[name] for name in ("n_clusters", "n_items", "n_edges"))
    return {
        "centroids": (clusters, counts["dim"]),
        "item_ids": (id_bytes,),
        "item_id_ends": (items + 1,),
        "item_ptr": (items + 1,),
        "edge_cluster": (edges,),
        "cluster_ptr": (clusters + 1,),
        "cluster_item": (edges,),
        "cluster_edge": (edges,),
        "published_ms": (items,),
    }


def _header_text(dtype: str, shape: tuple[int, ...]) -> bytes:
    # As NumPy has always written it. Spelled out here, so that the bytes do not depend on NumPy's version and a
    # reader can compare instead of evaluating a Python literal from a file.
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode("ascii")


def _write_array(directory: Path, name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Write one array as .npy version 1.0; returns its entry of the manifest."""
    text = _header_text(_DTYPES[name], array.shape)
    size = -(-(len(_MAGIC) + 2 + len(text) + 1) // 64) * 64
    padded = text.ljust(size - len(_MAGIC) - 3) + b"\n"
    header = _MAGIC + len(padded).to_bytes(2, "little") + padded
    payload = array.reshape(-1).view(np.uint8).data
    digest = hashlib.sha256(header)
    digest.update(payload)
    _write(directory / f"{name}.npy", header, payload)
    return {
        "dtype": _DTYPES[name],
        "shape": list(array.shape),
        "bytes": size + payload.nbytes,
        "sha256": digest.hexdigest(),
    }


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(body: object) -> str:
    # Of the canonical form, so that reformatting a manifest is no damage and changing any value is.
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _read_manifest_bytes(directory: Path) -> bytes:
    if not directory.is_dir():
        raise _damaged(directory, MANIFEST, "a graph directory", "no such directory")
    path = directory / MANIFEST
    if not path.is_file():
        raise _damaged(directory, MANIFEST, "a file", "no such file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _damaged(directory, MANIFEST, "a readable file", error.strerror) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise _damaged(directory, MANIFEST, f"at most {MAX_MANIFEST_BYTES} bytes", "more")
    return data


def _check_shape_of_manifest(directory: Path, body: dict[str, Any]) -> None:
    """Raise unless every field has its type, and names, dtypes, shapes and sizes agree with the counts."""
    for name in _COUNTS:
        if type(body.get(name)) is not int or not 0 <= body[name] <= MAX_COUNT:
            raise _damaged(directory, MANIFEST, f"{name} from 0 to {MAX_COUNT}", f"{body.get(name)!r:.40}")
    if not isinstance(body.get("version"), str):
        raise _damaged(directory, MANIFEST, "version to be a string", f"{body.get('version')!r:.40}")
    attributes, files = body.get("attributes"), body.get("files")
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise _damaged(directory, MANIFEST, "attributes to be strings", f"{attributes!r:.40}")
    if not isinstance(files, dict) or set(files) | _OPTIONAL != set(_DTYPES):
        raise _damaged(directory, MANIFEST, f"files {sorted(_DTYPES)}", f"{files!r:.40}")
    blob = files["item_ids"]
    shape = blob.get("shape") if isinstance(blob, dict) else None
    id_bytes = shape[0] if isinstance(shape, list) and shape and type(shape[0]) is int else -1
    for name, expected in _expected_shapes(body, id_bytes).items():
        if name not in files and name in _OPTIONAL:
            continue
        entry = files[name]
        if not isinstance(entry, dict) or entry.get("dtype") != _DTYPES[name] or entry.get("shape") != [*expected]:
            wanted = f"{name} of dtype {_DTYPES[name]} and shape {list(expected)}"
            raise _damaged(directory, MANIFEST, wanted, f"{entry!r:.120}")


def _read_array(directory: Path, name: str, entry: Mapping[str, Any], mmap: bool) -> npt.NDArray[Any]:
    """One array, read-only, after its size, checksum and header are found as the manifest says."""
    file_name, path = f"{name}.npy", directory / f"{name}.npy"
    if not path.is_file():
        raise _damaged(directory, file_name, "a file", "no such file")
    data: bytes | memory_map.mmap = b""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == entry.get("bytes") and size > 0:
                mapped = mmap and memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_READ)
                data = mapped or file.read()
    except OSError as error:
        raise _damaged(directory, file_name, "a readable file", error.strerror) from error
    if size != entry.get("bytes") or len(data) != size:
        raise _damaged(directory, file_name, f"{entry.get('bytes')!r:.40} bytes", size)
    actual = hashlib.sha256(data).hexdigest()
    if actual != entry.get("sha256"):
        raise _damaged(directory, file_name, f"sha256 {entry.get('sha256')!r:.80}", actual)

    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    prefix = len(_MAGIC) + 2
    start = prefix + int.from_bytes(data[len(_MAGIC) : prefix], "little")
    text = _header_text(entry["dtype"], shape)
    if data[: len(_MAGIC)] != _MAGIC or data[prefix:start].rstrip() != text:
        raise _damaged(directory, file_name, f"a header {text!r}", f"{data[: prefix + len(text)]!r:.160}")
    count = 1
    for length in shape:  # in Python integers, which a claimed shape cannot overflow
        count *= length
    if start + count * dtype.itemsize != size:
        raise _damaged(directory, file_name, f"{start + count * dtype.itemsize} bytes for {shape}", size)
    array = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    array.flags.writeable = False
    return array.reshape(shape)


def _check_offsets(directory: Path, name: str, offsets: npt.NDArray[np.int64], end: int) -> None:
    # By comparison: a difference of hostile offsets may overflow into a plausible one.
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        raise _damaged(directory, f"{name}.npy", f"ascending offsets from 0 to {end}", f"{offsets[:8].tolist()}...")


def _damaged(directory: Path, file: str, expected: str, got: object) -> DamagedGraph:
    return DamagedGraph(f"{directory / file}: expected {expected}, got {str(got).replace(chr(10), ' ')}")

"""An overlap map on disk: a directory with a manifest and three plain .npy files.

Invariants: a directory is complete or does not exist under its name; what loads equals what was saved, and anything
else is refused as `DamagedOverlap`; it says between which clusters it maps, so that it is used for no others.
"""

import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.overlap import SHARE_BITS, OverlapMap

FORMAT = 1
MANIFEST = "manifest.json"
_MAX_BYTES = 1 << 32
_DTYPES = {"ptr": "<i8", "cluster": "<i4", "share": "<i8"}


class DamagedOverlap(ValueError):
    """An overlap map that cannot be trusted; the message names directory, file, expectation and finding."""


@dataclass(frozen=True, eq=False)
class StoredOverlap:
    """A map and the clusters that it is between.

    Attributes:
        overlap: the map.
        old: name of the old clusters, as `clusters_name` gives it.
        new: name of the new clusters.
        name: of the map itself: the sha256 of its manifest; empty where it does not come from a directory.
    """

    overlap: OverlapMap
    old: str
    new: str
    name: str = ""

    def check(self, old: Graph, new: Graph) -> None:
        """Raise ValueError unless the map is between the clusters of these graphs."""
        for side, graph, name in (("old", old, self.old), ("new", new, self.new)):
            if clusters_name(graph) != name:
                raise ValueError(f"overlap: expected a map of the {side} clusters of {graph.version}, got others")


def clusters_name(graph: Graph) -> str:
    """A name of the clusters of a graph, which its edits share: equal centroids, equal name."""
    digest = hashlib.sha256(f"{graph.n_clusters}:".encode())
    digest.update(np.ascontiguousarray(graph.centroids, "<f4").tobytes())
    return digest.hexdigest()[:32]


def save_overlap(overlap: OverlapMap, directory: Path, *, old: Graph, new: Graph) -> None:
    """Write a map as a new directory, all of it or nothing, on disk when the call returns.

    Args:
        overlap: the map.
        directory: must not exist.
        old: has the clusters that it maps from.
        new: has the clusters that it maps to.

    Raises:
        FileExistsError: there is something under that name.
    """
    if os.path.lexists(directory):
        raise FileExistsError(f"{directory}: expected a new directory, got one that exists")
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f".{directory.name}.{os.urandom(8).hex()}.tmp")
    draft.mkdir()
    try:
        files = {}
        for name, dtype in _DTYPES.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(getattr(overlap, name), dtype), allow_pickle=False)
            _write(draft / f"{name}.npy", buffer.getvalue())
            files[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
        body = {
            "format": FORMAT,
            "n_new": overlap.n_new,
            "old": clusters_name(old),
            "new": clusters_name(new),
            "files": files,
        }
        text = json.dumps({**body, "sha256": _checksum(body)}, indent=2, sort_keys=True)
        _write(draft / MANIFEST, text.encode())
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load_overlap(directory: Path) -> StoredOverlap:
    """Read a map, checked.

    Raises:
        DamagedOverlap: whatever is wrong.
    """
    body = _manifest(directory)
    arrays = {name: _array(directory, name, body["files"].get(name)) for name in _DTYPES}
    overlap = OverlapMap(arrays["ptr"], arrays["cluster"], arrays["share"], body["n_new"])
    ptr, sizes = overlap.ptr, np.diff(overlap.ptr)
    right = (
        len(ptr) >= 1
        and ptr[0] == 0
        and (sizes >= 0).all()
        and ptr[-1] == len(overlap.cluster) == len(overlap.share)
        and (overlap.share >= 0).all()
        and (overlap.share <= 1 << SHARE_BITS).all()
        and ((overlap.cluster >= 0) & (overlap.cluster < overlap.n_new)).all()
    )
    if not right:
        raise DamagedOverlap(f"{directory}: expected shares of clusters below {overlap.n_new}, got others")
    whole = np.add.reduceat(np.append(overlap.share, 0), ptr[:-1])[sizes > 0] if len(ptr) > 1 else sizes
    if (whole != 1 << SHARE_BITS).any():
        raise DamagedOverlap(f"{directory}: expected shares that add up to 1, got others")
    return StoredOverlap(overlap, body["old"], body["new"], _checksum(body))


def overlap_name(directory: Path) -> str:
    """The name of the map in a directory, its arrays not looked at.

    Raises:
        DamagedOverlap: there is no manifest, or it is damaged.
    """
    return _checksum(_manifest(directory))


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        body = json.loads(_read(path))
        claimed = body.pop("sha256")
        if body["format"] != FORMAT:
            raise DamagedOverlap(f"{path}: expected format {FORMAT}, got {body['format']!r:.40}")
        if claimed != _checksum(body) or not isinstance(body["files"], dict) or type(body["n_new"]) is not int:
            raise DamagedOverlap(f"{path}: expected contents of sha256 {claimed!r:.80}, got others")
    except OSError as error:
        raise DamagedOverlap(f"{path}: expected a readable file, got {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedOverlap(f"{path}: expected the manifest of an overlap map, got {error!r:.80}") from error
    except DamagedOverlap:
        raise
    except ValueError as error:
        raise DamagedOverlap(f"{path}: expected JSON, got {error}") from error
    return dict(body)


def _array(directory: Path, name: str, sha256: object) -> npt.NDArray[Any]:
    path = directory / f"{name}.npy"
    try:
        data = _read(path)
    except OSError as error:
        raise DamagedOverlap(f"{path}: expected a readable file, got {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedOverlap(f"{path}: expected sha256 {sha256!r:.80}, got another")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DamagedOverlap(f"{path}: expected an array, got {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(_DTYPES[name]) or array.ndim != 1:
        raise DamagedOverlap(f"{path}: expected a column of {_DTYPES[name]}, got another array")
    return array


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise DamagedOverlap(f"{path}: expected at most {_MAX_BYTES} bytes, got more")
    return data


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

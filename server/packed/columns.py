"""Packed queries as arrays, checked as a whole: what concerns all slates of a message.

Invariants: what leaves this module fits together: as many counts as slates, as many entries as the counts say, all
within their bounds; what concerns one slate alone is left to `server.packed.read_packed`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.v1 import recommender_pb2
from server import limits
from server.errors import invalid_field
from server.requests import check_text

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Queries:
    """Columns of S slates.

    Attributes:
        items: int32, candidates of all slates, as they were sent.
        item_ends: int64 of shape (S,), where each slate's candidates end.
        clusters: int32, of all users; empty if they came as embeddings.
        weights: float32, parallel to `clusters`.
        cluster_ends: int64 of shape (S,); empty if the users came as embeddings.
        embeddings: float32; empty if the users came as clusters.
        sizes: int32 of shape (S,), lengths of the slates, 0 = all.
        modes: uint8 of shape (S,), 0 = the server's default.
        seeds: uint64 of shape (S,); None = to be drawn.
    """

    items: Int32
    item_ends: Int64
    clusters: Int32
    weights: Float32
    cluster_ends: Int64
    embeddings: Float32
    sizes: Int32
    modes: UInt8
    seeds: UInt64 | None

    def __len__(self) -> int:
        return len(self.item_ends)


def read_columns(queries: recommender_pb2.PackedQueries, *, dim: int) -> Queries:
    """Arrays over the bytes of a message.

    Args:
        queries: the message.
        dim: of the graph's centroids.

    Raises:
        Refused: INVALID_ARGUMENT naming the column.
    """
    counts = _column(queries, "item_counts", np.int32)
    slates = len(counts)
    if not 1 <= slates <= limits.MAX_BATCH_REQUESTS:
        raise _wrong("item_counts", f"1 to {limits.MAX_BATCH_REQUESTS} slates", f"{slates} slates")
    item_ends = _ends("item_counts", counts, limits.MAX_CANDIDATES)
    items = _column(queries, "items", np.int32)
    if len(items) > limits.MAX_BATCH_CANDIDATES:
        raise _wrong("items", f"at most {limits.MAX_BATCH_CANDIDATES} candidates", f"{len(items)} candidates")
    _check_length("items", items, int(item_ends[-1]), "the sum of item_counts")
    clusters, weights = _column(queries, "cluster_ids", np.int32), _column(queries, "weights", np.float32)
    cluster_counts = _column(queries, "cluster_counts", np.int32)
    embeddings = _column(queries, "embeddings", np.float32)
    cluster_ends = np.empty(0, np.int64)
    if len(embeddings):
        if len(cluster_counts) or len(clusters) or len(weights):
            raise _wrong("embeddings", "embeddings or clusters", "both")
        if dim == 0:
            raise _wrong("embeddings", "cluster weights, as this graph has no centroids", "embeddings")
        _check_length(
            "embeddings", embeddings, slates * dim, f"{dim} a slate (dimensions of the graph's centroids)"
        )
    else:
        _check_length("cluster_counts", cluster_counts, slates, "one a slate, unless embeddings are sent")
        cluster_ends = _ends("cluster_counts", cluster_counts, limits.MAX_CLUSTERS)
        for name, column in (("cluster_ids", clusters), ("weights", weights)):
            _check_length(name, column, int(cluster_ends[-1]), "the sum of cluster_counts")
    sizes = _spread("slate_sizes", _column(queries, "slate_sizes", np.int32), slates)
    wrong = np.flatnonzero((sizes < 0) | (sizes > limits.MAX_CANDIDATES))
    if len(wrong):
        raise _wrong(f"slate_sizes[{wrong[0]}]", f"0 (all) to {limits.MAX_CANDIDATES}", int(sizes[wrong[0]]))
    modes = _spread("modes", _column(queries, "modes", np.uint8), slates)
    if queries.request_ids:
        _check_length("request_ids", queries.request_ids, slates, "one a slate, or none")
        for number, request_id in enumerate(queries.request_ids):
            check_text(f"queries.request_ids[{number}]", request_id, smallest=1)
    seeds = _column(queries, "seeds", np.uint64)
    if len(seeds):
        _check_length("seeds", seeds, slates, "one a slate, or none")
    return Queries(
        items, item_ends, clusters, weights, cluster_ends, embeddings, sizes, modes, seeds if len(seeds) else None
    )


def _column(queries: recommender_pb2.PackedQueries, name: str, dtype: Any) -> Any:
    data = getattr(queries, name)
    kind = _sent(dtype)
    if len(data) % kind.itemsize:
        raise _wrong(name, f"a multiple of {kind.itemsize} bytes", f"{len(data)} bytes")
    # A copy, as compiled loops would be compiled again for arrays that cannot be written.
    return np.frombuffer(data, kind).astype(dtype)


@cache
def _sent(dtype: Any) -> np.dtype[Any]:
    """The type of a column as it is sent: little-endian."""
    kind: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
    return kind


def _ends(name: str, counts: Int32, most: int) -> Int64:
    wrong = np.flatnonzero((counts < 1) | (counts > most))
    if len(wrong):
        raise _wrong(f"{name}[{wrong[0]}]", f"1 to {most}", int(counts[wrong[0]]))
    return np.cumsum(counts, dtype=np.int64)


def _spread(name: str, column: Any, slates: int) -> Any:
    """One entry a slate, of one for all or none."""
    if len(column) == slates:
        return column
    if len(column) > 1:
        raise _wrong(name, f"{slates} entries (one a slate), one, or none", f"{len(column)} entries")
    return np.full(slates, column[0] if len(column) else 0, column.dtype)


def _check_length(name: str, column: Any, expected: int, because: str) -> None:
    if len(column) != expected:
        raise _wrong(name, f"{expected} entries, {because}", f"{len(column)} entries")


def _wrong(name: str, expected: str, got: object) -> Exception:
    return invalid_field(f"queries.{name}", expected, got)

"""Memory that processes share: the arrays of one graph, its sums and rows twice, of which one whole state is read.

One process writes, any number read. States are numbered by epochs, one more each. Sums and rows of an epoch lie on
the side `epoch % 2`, so the state that is read lies still while the next is written on the other side.

Invariants:
- `DONE` is the epoch to be read; `BEGUN` is stored before anything of the next one is written. What was read of
  epoch e is whole if `BEGUN` is at most e + 1 afterwards. Wherever a writer dies, the state of `DONE` is whole.
- Arrays that are not sums are only ever appended to, behind what any epoch up to `DONE` counts; but for `closed`,
  of which each entry is on its own: a cluster that has had its exploration.
- Readers map the memory read-only. It has no name: it is gone when the last process that maps it is.

Order of memory: x86-64 keeps stores in order, and so does ARM64 around the two locks of `fence`.
"""

import mmap
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAGIC = 0x46524553_48534548  # names the format; another layout takes another number
DONE, BEGUN, NUMBER, ROWS_READY = 64, 72, 80, 88  # words, each on a line of its own
_SIDE_WORDS = (128, 160)
_HEADER_BYTES = 4_096
_PAGE = 4_096

# Words of a side, from its first on.
POSITION, LOG_BYTES, HAS_IN_FLIGHT, TOTAL_N, TOTAL_S = range(5)
SIDE_WORDS = 5

_LEAST_ROOM = 1 << 16
_LOG_BYTES = 64 << 20

_locks = threading.Lock(), threading.Lock()


class Unshareable(RuntimeError):
    """The machine has no memory that can be shared in the way that is needed."""


def fence() -> None:
    """What was stored before is seen before what is stored after."""
    for lock in _locks:
        lock.acquire()
        lock.release()


@dataclass(frozen=True)
class Sizes:
    """How much a segment holds.

    Attributes:
        clusters, dim: of the centroids.
        base_items, base_edges: of the graph before any edit.
        items, edges: room, those of the graph included.
        id_bytes: of the ids of the graph before any edit.
        slots: of the table that finds them; 0 = none.
        lines: of rows by item, that room included; 0 = there are no such rows.
        cluster_rows: rows by cluster; 0 likewise.
    """

    clusters: int
    dim: int
    base_items: int
    base_edges: int
    items: int
    edges: int
    id_bytes: int
    slots: int
    lines: int
    cluster_rows: int

    @classmethod
    def with_room(cls, *, items: int, edges: int, lines: int, **others: int) -> "Sizes":
        """Sizes with room for edits; memory that nobody has written to costs nothing."""

        def roomy(count: int) -> int:
            return count + max(_LEAST_ROOM, count // 2)

        return cls(items=roomy(items), edges=roomy(edges), lines=roomy(lines) if lines else 0, **others)

    def arrays(self) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
        """Type and shape of each array, in the order in which they lie."""
        sided: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {}
        for side in (0, 1):
            sided |= {
                f"edge{side}": (np.int64, (self.edges, 3)),
                f"item{side}": (np.int64, (self.items, 2)),
                f"in_flight{side}": (np.int64, (self.edges,)),
                f"lines{side}": (np.uint8, (self.lines, 64)),
                f"cluster_rows{side}": (np.float32, (self.cluster_rows, 3)),
            }
        return {
            "centroids": (np.float32, (self.clusters, self.dim)),
            "cluster_ptr": (np.int64, (self.clusters + 1,)),
            "cluster_item": (np.int32, (self.base_edges,)),
            "cluster_edge": (np.int64, (self.base_edges,)),
            "id_pool": (np.uint8, (self.id_bytes,)),
            "id_starts": (np.int64, (self.base_items + 1,)),
            "id_slots": (np.int32, (self.slots,)),
            "item_ptr": (np.int64, (self.items + 1,)),
            "edge_cluster": (np.int32, (self.edges,)),
            "item_hashes": (np.uint64, (self.items, 2)),
            "published_ms": (np.int64, (self.items,)),
            "closed": (np.bool_, (self.clusters,)),
            "row_at": (np.int32, (self.items if self.lines else 0,)),
            "log": (np.uint8, (_LOG_BYTES,)),
            **sided,
        }


class Segment:
    """One such memory, mapped.

    Args:
        fd: of the memory, which stays open for as long as it is mapped.
        sizes: of what it holds.
        writable: whether this process is the writer.

    Attributes:
        fd: to be handed to others.
        sizes: of what it holds.
        arrays: by name, as `Sizes.arrays` says.
        words: int64, the first page.
        number: of the segment; later ones have larger numbers.
    """

    def __init__(self, fd: int, sizes: Sizes, *, writable: bool) -> None:
        self.fd, self.sizes = fd, sizes
        offsets, end = _offsets(sizes)
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(fd, end, mmap.MAP_SHARED, access)
        start = np.frombuffer(self._map, np.uint8).ctypes.data
        self.words = memoryview(self._map)[:_HEADER_BYTES].cast("q")
        self._sides = tuple(self.words[first : first + SIDE_WORDS] for first in _SIDE_WORDS)
        self.arrays: Mapping[str, Array] = {
            name: _array_at(start + offsets[name], dtype, shape, self._map)
            for name, (dtype, shape) in sizes.arrays().items()
        }

    @classmethod
    def create(cls, sizes: Sizes, *, number: int) -> "Segment":
        """Memory of zeros for a writer.

        Raises:
            Unshareable: the system has no anonymous memory files.
        """
        segment = cls(anonymous_memory("freshet-parameters", _offsets(sizes)[1]), sizes, writable=True)
        words = segment.words
        for at, value in enumerate((MAGIC, *asdict(sizes).values())):
            words[at] = value
        words[NUMBER] = number
        return segment

    @classmethod
    def attach(cls, fd: int) -> "Segment":
        """The memory of another process, to be read.

        Raises:
            ValueError: it is something else.
        """
        head = np.frombuffer(os.pread(fd, _HEADER_BYTES, 0), np.int64).tolist()
        if len(head) * 8 < _HEADER_BYTES or head[0] != MAGIC:
            raise ValueError("segment: expected memory of this format, got something else")
        return cls(fd, Sizes(*head[1 : 1 + len(fields(Sizes))]), writable=False)

    @property
    def number(self) -> int:
        """Number of the segment."""
        return self.words[NUMBER]

    def side(self, epoch: int) -> memoryview:
        """The words of the side of an epoch."""
        return self._sides[epoch & 1]

    def close_fd(self) -> None:
        """Let the file go; what is mapped stays for as long as arrays of it are held."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def anonymous_memory(name: str, size: int) -> int:
    """File descriptor of so many bytes of zeros.

    Raises:
        Unshareable: the system has no such files.
    """
    make = getattr(os, "memfd_create", None)
    if make is None:
        raise Unshareable("server.processes: expected Linux, whose processes share anonymous memory files")
    fd: int = make(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def _offsets(sizes: Sizes) -> tuple[dict[str, int], int]:
    """Where each array begins, on a page of its own, and the end of the last."""
    offsets, end = {}, _HEADER_BYTES
    for name, (dtype, shape) in sizes.arrays().items():
        offsets[name] = end
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        end += -(-size // _PAGE) * _PAGE
    return offsets, end


@dataclass(frozen=True)
class _Memory:
    """Mapped memory by its address.

    Arrays over memory that is mapped read-only say that they are writable, or compiled loops would be compiled once
    more for them; who writes to one is ended by the system.
    """

    __array_interface__: dict[str, Any]
    held: mmap.mmap


def _array_at(address: int, dtype: npt.DTypeLike, shape: tuple[int, ...], held: mmap.mmap) -> Array:
    if 0 in shape:
        return np.empty(shape, dtype)
    interface = {"version": 3, "data": (address, False), "typestr": np.dtype(dtype).str, "shape": shape}
    return np.asarray(_Memory(interface, held))

"""Checks of the machine: what Freshet needs of Python, processors, memory, disk, files and clock.

Invariant: a check changes nothing that lasts, ends within seconds, and never raises.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bandits.backend import Backend

Status = Literal["ok", "warn", "fail"]

MIB, GIB = 1 << 20, 1 << 30
_DISK_FAIL, _DISK_WARN = 200 * MIB, 2 * GIB
_MEMORY_FAIL, _MEMORY_WARN = 256 * MIB, 1 * GIB
_FILES_FAIL, _FILES_WARN = 256, 1_024
_MANY_CORES = 4
_SYNC_WRITES, _SYNC_BYTES, _SYNC_WARN_MS = 30, 4_096, 25.0
_EARLIEST_S = 1_735_689_600  # 2025-01-01, before this release was made
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    name: str
    status: Status
    found: str
    fix: str = ""


Check = Callable[[], Finding]


def guarded(name: str, check: Check) -> Finding:
    """The finding of a check; one that breaks has failed."""
    try:
        return check()
    except Exception as error:
        return Finding(name, "fail", f"{type(error).__name__}: {error}")


def python() -> Finding:
    """Which release runs on which Python; an older one than is supported would not have come so far."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "python", "ok", f"{version}, freshet {installed_version('freshet')}, {os.cpu_count()} processors"
    )


def numba() -> Finding:
    """The fast path compiles, is kept from start to start, and agrees with the reference bit for bit."""
    from bandits.backend import choose_backend

    began_s = time.perf_counter()
    seen = [_tried(choose_backend(name)) for name in ("numba", "numpy")]
    took_s = time.perf_counter() - began_s
    if not all(map(np.array_equal, *seen)):
        return Finding("numba", "fail", "its sums differ from NumPy's", "set FRESHET_BACKEND=numpy and report this")
    found = f"agrees with NumPy; loaded in {took_s:.1f} s"
    if not _cache_writable():
        return Finding("numba", "warn", f"{found}, but cannot keep compiled code", "set NUMBA_CACHE_DIR")
    return Finding("numba", "ok", found)


def _tried(backend: "Backend") -> "list[npt.NDArray[Any]]":
    """Sums, and what is gathered of them, of two facts that a backend has added."""
    from bandits.context import Context
    from bandits.graph import build_graph
    from bandits.sums import Facts, Sums

    graph = build_graph(
        version="check", centroids=[[1.0], [-1.0]], item_ids=["a", "b"], edge_item=[0, 0, 1], edge_cluster=[0, 1, 1]
    )
    facts = Facts(
        item=np.array([0, 1], np.int32),
        context=np.zeros(2, np.int32),
        impressions=np.ones(2, np.int64),
        reward=np.array([0, 1 << 15], np.int64),
        context_ptr=np.array([0, 2], np.int64),
        context_cluster=np.array([0, 1], np.int32),
        context_x=np.array([20_000, 12_768], np.int64),
    )
    user, items = Context(np.array([0, 1], np.int32), np.array([0.6, 0.4])), np.array([0, 1], np.int32)
    sums = Sums.zeros(graph)
    backend.add(graph, sums, facts)
    gathered = backend.gather(graph, sums, items, user)
    return [sums.edge, sums.item, gathered.edge, gathered.a, gathered.d, gathered.b]


def _cache_writable() -> bool:
    import bandits

    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(str(bandits.__file__)).parent)
    # Where the package's folder is not writable, Numba keeps its code in the user's cache.
    return os.access(folder, os.W_OK) or os.access(Path.home(), os.W_OK)


def blas() -> Finding:
    """Threads of BLAS do not fight with those that answer calls."""
    given = {name: os.environ[name] for name in _BLAS_VARIABLES if name in os.environ}
    cores = os.cpu_count() or 1
    if given:
        return Finding("blas threads", "ok", ", ".join(f"{name}={value}" for name, value in given.items()))
    if cores <= _MANY_CORES:
        return Finding("blas threads", "ok", f"not limited, {cores} processors")
    fix = "set OPENBLAS_NUM_THREADS=1: products here are small, calls run beside each other"
    return Finding("blas threads", "warn", f"not limited on {cores} processors", fix)


def gpu() -> Finding:
    """Whether there is a GPU, and whether it adds as the processor does; none is no fault."""
    from bandits.cupy_device import NoDevice, open_device

    if find_spec("cupy") is None:
        return Finding("gpu", "ok", "CuPy is not installed, sums are added on the processor")
    began_s = time.perf_counter()
    try:
        device = open_device()
    except NoDevice as error:
        return Finding("gpu", "warn", f"{error}", "install a driver that this CuPy knows, or remove CuPy")
    from bandits.backend_cupy import CupyBackend
    from bandits.backend_numpy import NumpyBackend

    seen = [_tried(backend) for backend in (CupyBackend(device), NumpyBackend())]
    if not all(map(np.array_equal, *seen)):
        return Finding("gpu", "fail", f"sums of {device.name} differ from NumPy's", "remove CuPy, and report this")
    free, total = (size / GIB for size in device.memory())
    ready = f"agrees with NumPy; ready in {time.perf_counter() - began_s:.1f} s"
    return Finding("gpu", "ok", f"{device.name}, {free:.0f} of {total:.0f} GiB free; {ready}")


def memory() -> Finding:
    """There is memory for a graph."""
    free = _available_memory()
    if free is None:
        return Finding("memory", "ok", "cannot be told on this system")
    status = _graded(free, _MEMORY_FAIL, _MEMORY_WARN)
    return Finding(
        "memory", status, f"{free / GIB:.1f} GiB available", "" if status == "ok" else "free some memory"
    )


def _available_memory() -> int | None:
    bounds: list[int] = []
    info = Path("/proc/meminfo")
    if info.exists():
        line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
        bounds.append(int(line.split()[1]) << 10)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        bounds.append(int(text) - int(used.read_text()))
    return min(bounds, default=None)


def open_files() -> Finding:
    """Enough files and sockets may be open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    status = _graded(soft, _FILES_FAIL, _FILES_WARN)
    return Finding("open files", status, f"limit {soft:,} of {hard:,}", "" if status == "ok" else "ulimit -n 65536")


def clock() -> Finding:
    """The clock is not before this release was made."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < _EARLIEST_S:
        return Finding("clock", "fail", now, "set the clock: events are judged by their age")
    return Finding("clock", "ok", now)


def disk(folder: Path) -> Finding:
    """There is room where the data goes."""
    free = shutil.disk_usage(_existing(folder)).free
    status = _graded(free, _DISK_FAIL, _DISK_WARN)
    fix = "" if status == "ok" else "free some space, or set FRESHET_DATA_DIR to another disk"
    return Finding("disk", status, f"{free / GIB:.1f} GiB free for {folder}", fix)


def synced_writes(folder: Path) -> Finding:
    """RocksDB can write there, and how long a synced write takes: every answer to feedback waits for one."""
    from streams.store import Batch, Store

    took_ms = []
    with tempfile.TemporaryDirectory(prefix=".freshet-doctor-", dir=_existing(folder)) as scratch:
        store = Store(Path(scratch) / "store")
        try:
            for number in range(_SYNC_WRITES):
                batch = Batch()
                batch.put(b"x", number, bytes(_SYNC_BYTES))
                began_s = time.perf_counter()
                store.write(batch)
                took_ms.append((time.perf_counter() - began_s) * 1e3)
        finally:
            store.close()
    median, longest = float(np.median(took_ms)), max(took_ms)
    found = f"median {median:.1f} ms, longest {longest:.1f} ms for {folder}"
    if median > _SYNC_WARN_MS:
        fix = "set FRESHET_DATA_DIR to a local disk: feedback is answered when it is durable"
        return Finding("synced writes", "warn", found, fix)
    return Finding("synced writes", "ok", found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _graded(value: int, fail_below: int, warn_below: int) -> Status:
    if value < fail_below:
        return "fail"
    return "warn" if value < warn_below else "ok"

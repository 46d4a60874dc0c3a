"""The CUDA kernels compiled as C++ for the processor, and a stand-in for the few calls of CuPy that drive them.

Invariants: memory of the device is not memory of the host, and is reached through the calls that CuPy has for it
alone; arguments of a kernel have exactly the size that it declares, what lies behind them is rubbish; new memory is
rubbish; the threads of a launch run in random order, several at once.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bandits.cuda import source

_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-Wall", "-Werror")
_RUBBISH = 0xA5
_WORKERS = 2


def compiler() -> str:
    """A C++ compiler; the test is skipped, loudly, where there is none."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler: the CUDA kernels were NOT checked on this machine")
    return found


def build() -> ctypes.CDLL:
    """The kernels as a library of the processor, compiled once for each text of theirs."""
    shim = (Path(__file__).parent / "shim.h").read_text()
    kernels = source()
    entries = [
        f'extern "C" void emulate_{name}(unsigned grid, unsigned block, unsigned long long seed, unsigned workers, '
        f"void** arguments) {{ emulate(&{name}, grid, block, seed, workers, arguments); }}"
        for name in re.findall(r'extern "C" __global__ void (\w+)\(', kernels)
    ]
    text = "\n".join([shim, kernels, *entries])
    digest = hashlib.sha256(" ".join([text, *_FLAGS]).encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"freshet-kernels-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    assert kept.stat().st_uid == os.getuid(), f"{kept}: expected to be ours, what lies there is run"
    library = kept / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kernels.cpp").write_text(text)
            made = Path(folder) / "kernels.so"
            command = [compiler(), *_FLAGS, f"{folder}/kernels.cpp", "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            shutil.copy(made, library.with_suffix(f".{Path(folder).name}"))
            library.with_suffix(f".{Path(folder).name}").replace(library)  # whole, or not there
    return ctypes.CDLL(str(library))


class OutOfMemoryError(MemoryError):
    """As CuPy's: there is not so much memory on the device."""


class CUDARuntimeError(RuntimeError):
    """As CuPy's: what a call of the driver answers."""


class DeviceArray:
    """An array in the memory of the device: as much of `cupy.ndarray` as is used."""

    def __init__(self, memory: np.ndarray[Any, Any]) -> None:
        self._memory = memory

    def __array__(self, *_: Any, **__: Any) -> None:
        raise TypeError("an array of the device is no array of the host: use get()")

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._memory.shape

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(
            ptr=self._memory.ctypes.data,
            memset_async=self._set_bytes,
            copy_from_device_async=self._copy,
            memory=self._memory,
        )

    def _copy(self, source: Any, size: int) -> None:
        self._memory.view(np.uint8)[:size] = source.memory.view(np.uint8)[:size]

    def _set_bytes(self, byte: int, size: int, stream: Any) -> None:
        assert 0 <= size <= self._memory.nbytes
        self._memory.reshape(-1).view(np.uint8)[:size] = byte

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def __getitem__(self, part: slice) -> "DeviceArray":
        assert isinstance(part, slice)
        assert (part.stop or 0) <= len(self._memory), "beyond the end"
        return DeviceArray(self._memory[part])

    def set(self, host: np.ndarray[Any, Any], stream: Any = None) -> None:
        assert type(host) is np.ndarray
        assert (host.dtype, host.shape) == (self._memory.dtype, self._memory.shape)
        assert self._memory.flags.c_contiguous
        self._memory[...] = host

    def get(self, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        if out is None:
            return self._memory.copy()
        assert (out.dtype, out.shape) == (self._memory.dtype, self._memory.shape)
        assert out.flags.c_contiguous
        assert out.flags.writeable
        out[...] = self._memory
        return out


class EmulatedCupy:
    """As much of the module `cupy` as is used.

    Args:
        seed: of the order of threads.
        devices: how many there are; an exception is raised when asked.
        memory: bytes on the device, of which what is freed is had again at once.
    """

    def __init__(
        self, *, seed: int = 0, devices: int | Exception = 1, memory: int = 1 << 62, broken: str | None = None
    ) -> None:
        self._library = build()
        self._rng = np.random.default_rng(seed)
        self._devices, self.memory, self._broken = devices, memory, broken
        self.launches: dict[str, int] = {}
        self._taken: list[Any] = []
        event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
        stream = SimpleNamespace(synchronize=lambda: None)
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                getDeviceCount=self._count, getDeviceProperties=lambda number: {"name": b"an emulated device"}
            ),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            Device=lambda: SimpleNamespace(mem_info=(self.free, self.memory)),
            Stream=SimpleNamespace(null=stream),
            Event=lambda disable_timing: event,
            alloc_pinned_memory=bytearray,
        )

    def _count(self) -> int:
        if isinstance(self._devices, Exception):
            raise self._devices
        return self._devices

    @property
    def free(self) -> int:
        """Bytes of the device that nobody holds."""
        import weakref

        self._taken = [ref for ref in self._taken if ref() is not None]
        assert all(isinstance(ref, weakref.ref) for ref in self._taken)
        return self.memory - sum(ref().nbytes for ref in self._taken)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> DeviceArray:
        """Memory full of rubbish."""
        import weakref

        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.free:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
        raw = np.full(size, _RUBBISH, np.uint8)
        self._taken.append(weakref.ref(raw))
        return DeviceArray(raw.view(dtype).reshape(shape))

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> SimpleNamespace:  # noqa: N802
        """The kernels, which have been compiled already."""
        assert code == source()
        assert "--fmad=false" in options
        if self._broken:
            raise RuntimeError(self._broken)
        return SimpleNamespace(get_function=self._function)

    def _function(self, name: str) -> Any:
        entry = self._library[f"emulate_{name}"]

        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            self.launches[name] = self.launches.get(name, 0) + 1
            slots = [_slot(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(slots))(*[slot.ctypes.data for slot in slots])
            seed = ctypes.c_ulonglong(int(self._rng.integers(1 << 62)))
            entry(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), seed, ctypes.c_uint(_WORKERS), pointers)

        return launch


def _slot(argument: Any) -> np.ndarray[Any, Any]:
    """A kernel's argument where it lies: its bytes, and rubbish behind them."""
    if isinstance(argument, DeviceArray):
        argument = np.uint64(argument.data.ptr)
    assert isinstance(argument, np.generic), f"expected an array of the device or a NumPy scalar, got {argument!r}"
    slot = np.full(16, _RUBBISH, np.uint8)
    slot[: argument.nbytes] = np.frombuffer(argument.tobytes(), np.uint8)
    return slot

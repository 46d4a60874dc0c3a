"""A GPU: finding it, compiling the kernels for it, moving a batch to it once, and launching.

Invariants: everything runs on one stream in the order in which it was asked for; nothing is asked of a device
before its memory was had, so a full device changes nothing; CuPy is imported by who opens a device, and only then.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.cuda import BLOCK, OPTIONS, source

Array = npt.NDArray[Any]
DeviceArray = Any  # cupy.ndarray

SLOTS = 2  # batches under way: one is filled while the one before is moved
_ALIGNED = 256  # bytes; every column of a batch starts on a line of the device's memory
_LEAST_SLOT = 1 << 16


class NoDevice(RuntimeError):
    """There is no GPU that can be used; the message says why, in one line."""


class DeviceUnusable(NoDevice):
    """There is a GPU, and it does not do what it has to."""


class DeviceFull(RuntimeError):
    """The device's memory does not hold what was asked of it; nothing has been changed."""


def open_device(cupy: Any = None) -> "Device":
    """The first GPU of this machine, with the kernels compiled for it.

    Args:
        cupy: the module, where it is not the one that is installed.

    Raises:
        NoDevice: CuPy is not installed, finds no device or too old a driver, or cannot compile.
    """
    cupy = find_cupy(cupy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Device(cupy)
    except DeviceFull as error:
        raise NoDevice(str(error)) from error
    except Exception as error:
        raise DeviceUnusable(f"the device cannot be used: {_one_line(error)}") from error


def find_cupy(cupy: Any = None) -> Any:
    """The module `cupy`, which finds a device; arguments and errors as of `open_device`, nothing is compiled."""
    if cupy is None:
        cupy = _installed()
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # CuPy raises an error of its own, which also tells of a driver that is too old
        raise NoDevice(f"CuPy finds no device: {_one_line(error)}") from error
    if count == 0:
        raise NoDevice("CuPy finds no device")
    return cupy


def _installed() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what CuPy does not find and may not need
            import cupy
    except ModuleNotFoundError as error:
        raise NoDevice("CuPy is not installed (extra cuda12 or cuda13)") from error
    except Exception as error:  # a library that it needs is missing
        raise NoDevice(f"CuPy cannot be imported: {_one_line(error)}") from error
    return cupy


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


class Device:
    """A GPU with the compiled kernels.

    Attributes:
        name: of the device.
        bytes_moved: to the device and from it, so far: two numbers.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        self.name: str = properties["name"].decode()
        module = cupy.RawModule(code=source(), options=OPTIONS)
        module.get_function("add_facts")  # compiles all, or says what is wrong
        self._module = module
        self._kernels: dict[str, Any] = {}
        self._stream = cupy.cuda.Stream.null
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._next = 0
        self.bytes_moved = [0, 0]

    def memory(self) -> tuple[int, int]:
        """Bytes of the device that are free, and all."""
        free, total = self._cupy.cuda.Device().mem_info
        return int(free), int(total)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Memory of the device, not set to anything.

        Raises:
            DeviceFull: there is not so much.
        """
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            free, total = self.memory()
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise DeviceFull(
                f"GPU memory: expected {size / 2**20:,.0f} MiB more, got {free / 2**20:,.0f} of "
                f"{total / 2**20:,.0f} MiB free on {self.name}"
            ) from error

    def filled(self, size: int, byte: int, dtype: npt.DTypeLike) -> DeviceArray:
        """A row of numbers on the device that are made of equal bytes, as 0 is of 0 and -1 of 255."""
        array = self.empty(size, dtype)
        self.fill(array, byte)
        return array

    def fill(self, array: DeviceArray, byte: int) -> None:
        """Set every byte of an array of the device; by the driver, as CuPy would have to compile a kernel first."""
        array.data.memset_async(byte, array.nbytes, self._stream)

    def upload(self, array: Array, *, room: int = 0) -> DeviceArray:
        """A copy of an array on the device, with room for so many more rows behind it."""
        copy = self.empty((len(array) + room, *array.shape[1:]), array.dtype)
        self.write(copy, 0, array)
        return copy

    def write(self, to: DeviceArray, start: int, rows: Array) -> None:
        """Write rows into an array of the device; they are not read any more when this returns."""
        if len(rows):
            to[start : start + len(rows)].set(np.ascontiguousarray(rows), stream=self._stream)
            self._stream.synchronize()
            self.bytes_moved[0] += rows.nbytes

    def read(self, array: DeviceArray, *, out: Array | None = None) -> Array:
        """An array of the device on the host, in `out` where that is given; waits for all that was asked before."""
        host: Array = array.get() if out is None else array.get(out=out)
        self.bytes_moved[1] += host.nbytes
        return host

    def wait(self) -> None:
        """Wait until the device has done all that was asked of it."""
        self._stream.synchronize()

    def launch(self, name: str, threads: int, *arguments: Any) -> None:
        """Run a kernel with at least so many threads; arguments are arrays of the device and NumPy scalars."""
        kernel = self._kernels.get(name)
        if kernel is None:
            kernel = self._kernels[name] = self._module.get_function(name)
        if threads:
            kernel((-(-threads // BLOCK),), (BLOCK,), arguments)

    def move(self, *columns: tuple[Array, npt.DTypeLike]) -> tuple[np.uint64, ...]:
        """Move columns to the device in one transfer; their addresses there, until `SLOTS` further moves.

        Args:
            columns: each with the dtype that it is to have there; its numbers fit.
        """
        sizes = [len(column) * np.dtype(dtype).itemsize for column, dtype in columns]
        starts = np.cumsum([0, *[-(-size // _ALIGNED) * _ALIGNED for size in sizes]]).tolist()
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        slot.wait()
        if slot.size < starts[-1]:
            slot.grow(self, self._cupy, starts[-1])
        for (column, dtype), start, size in zip(columns, starts[:-1], sizes, strict=True):
            np.copyto(slot.pinned[start : start + size].view(dtype), column, casting="unsafe")
        total = starts[-1]
        slot.device[:total].set(slot.pinned[:total], stream=self._stream)
        slot.moved.record(self._stream)
        self.bytes_moved[0] += total
        return tuple(np.uint64(slot.device.data.ptr + start) for start in starts[:-1])


class _Slot:
    """Page-locked memory of the host and as much of the device: where a batch is on its way."""

    def __init__(self) -> None:
        self.size = 0
        self.pinned: Array = np.empty(0, np.uint8)
        self.device: DeviceArray = None
        self.moved: Any = None

    def wait(self) -> None:
        """Wait until what was in the slot has left the host."""
        if self.moved is not None:
            self.moved.synchronize()

    def grow(self, device: Device, cupy: Any, size: int) -> None:
        size = max(_LEAST_SLOT, size + size // 2)
        self.device = device.empty(size, np.uint8)
        self.pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
        self.moved = cupy.cuda.Event(disable_timing=True)
        self.size = size

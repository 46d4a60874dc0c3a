"""Who adds: a GPU that can be used and is worth it, else the processor; and every reason is one line."""

import numpy as np
import pytest

from bandits import cupy_device
from bandits.backend import choose_backend, serving_backend
from bandits.backend_cupy import CupyBackend
from bandits.cupy_device import DeviceUnusable, NoDevice, open_device
from bandits.sums import Sums
from tests.bandits.cuda.emulation import CUDARuntimeError, EmulatedCupy
from tests.bandits.cuda.test_resident_sums import facts_of
from tests.bandits.test_backends import make_graph

TOO_OLD = CUDARuntimeError(
    "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
)


def broken(**faults: object) -> EmulatedCupy:
    return EmulatedCupy(**faults)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("faults", "kind", "reason"),
    [
        ({"devices": 0}, NoDevice, "finds no device"),
        ({"devices": TOO_OLD}, NoDevice, "driver version is insufficient"),
        (
            {"broken": "error: nonsense\nand more of it"},
            DeviceUnusable,
            "cannot be used: RuntimeError: error: nonsense",
        ),
    ],
)
def test_why_there_is_no_device_is_one_line(faults: dict[str, object], kind: type[NoDevice], reason: str) -> None:
    """No device, a driver that is too old, kernels that do not compile."""
    with pytest.raises(kind, match=reason) as error:
        open_device(broken(**faults))
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_without_cupy_the_error_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy is not among the dependencies: who asks for it is told where it comes from."""
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(NoDevice, match="extra cuda12 or cuda13"):
        choose_backend("cupy")
    told: list[str] = []
    assert choose_backend("auto", gpu_crossover=100, tell=told.append).name == "numba"
    assert told == [
        "no GPU is used, sums are added on the processor: CuPy is not installed (extra cuda12 or cuda13)"
    ]


def test_a_gpu_is_looked_for_only_where_a_crossover_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the processor adds, and CuPy, which takes a second to import, is left alone."""
    asked = []

    def opened() -> object:
        asked.append(1)
        return open_device(EmulatedCupy())

    monkeypatch.setattr(cupy_device, "open_device", opened)
    assert choose_backend("auto").name == "numba"
    assert choose_backend("numba", gpu_crossover=100).name == "numba"
    assert not asked
    backend = choose_backend("auto", gpu_crossover=100)
    assert backend.name == "cupy"
    assert serving_backend(backend).name == "numba"
    assert serving_backend(serving_backend(backend)).name == "numba"


def test_auto_adds_small_batches_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the crossover on, and not below it, a batch goes to the device; by name, every one does."""
    monkeypatch.setattr(cupy_device, "open_device", lambda: open_device(EmulatedCupy()))
    graph = make_graph()
    for name, there in (("auto", 100), ("cupy", 199)):
        backend = choose_backend(name, gpu_crossover=100 if name == "auto" else 0)
        assert isinstance(backend, CupyBackend)
        for count in (99, 100):
            backend.add(graph, Sums.zeros(graph), facts_of(graph, count, 1))
        assert backend.facts_on_device == there


def test_no_reason_is_told_where_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in the log is a warning: there is none while the GPU is used."""
    monkeypatch.setattr(cupy_device, "open_device", lambda: open_device(EmulatedCupy()))
    told: list[str] = []
    graph = make_graph()
    backend, sums = choose_backend("auto", gpu_crossover=1, tell=told.append), Sums.zeros(graph)
    backend.add(graph, sums, facts_of(graph, 20, 1))
    assert np.count_nonzero(sums.item)
    assert told == []

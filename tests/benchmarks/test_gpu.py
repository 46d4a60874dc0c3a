"""What measures a GPU runs, checks what it measures, and says so where there is none."""

import json

import pytest

from bandits.cupy_device import Device, NoDevice, open_device
from benchmarks.gpu import main
from tests.bandits.cuda.conftest import MAKERS
from tests.bandits.cuda.emulation import EmulatedCupy


@pytest.mark.parametrize("kind", ["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def test_every_quantity_is_measured_and_the_crossover_told(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On a device, real or not, all results are there; sums and slates have been compared on the way."""
    assert main(["--quick", "--json"], find=MAKERS[kind]) == 0
    results = {result["name"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert all(result["low"] > 0 for name, result in results.items() if "crossover" not in name)
    assert results["crossover, sums stay"]["unit"] == "facts"
    assert {"GPU / one core, batch of 400, rows read", "share of the byte floor"} <= results.keys()
    assert sum("slates at once" in name for name in results) == 6


def test_without_a_gpu_it_says_so_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that cannot be run is not one that has failed."""

    def none() -> Device:
        return open_device(EmulatedCupy(devices=0))

    assert main([], find=none) == 0
    assert capsys.readouterr().out == "no GPU here: CuPy finds no device\n"
    with pytest.raises(NoDevice):
        none()

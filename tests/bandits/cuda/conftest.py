"""Devices to test on: one that is emulated everywhere, the real one where there is one."""

from collections.abc import Callable

import pytest

from bandits.cupy_device import Device, DeviceUnusable, NoDevice, open_device
from tests.bandits.cuda.emulation import EmulatedCupy


def real_device() -> Device:
    """The GPU of this machine; one that is there and does not work fails the test."""
    try:
        return open_device()
    except DeviceUnusable:
        raise
    except NoDevice as error:
        pytest.skip(f"no GPU: {error}")


MAKERS: dict[str, Callable[[], Device]] = {"emulated": lambda: open_device(EmulatedCupy()), "real": real_device}


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.gpu)], scope="module")
def device(request: pytest.FixtureRequest) -> Device:
    """Each device that this machine has."""
    return MAKERS[request.param]()

"""A server whose sums are on a GPU answers as any other, and the doctor says what it found."""

from pathlib import Path
from typing import Any

import pytest

from bandits import cupy_device
from bandits.cupy_device import Device, open_device
from freshet.v1 import operations_pb2
from server.commands import machine_checks
from tests.bandits.cuda.emulation import CUDARuntimeError, EmulatedCupy
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, impression, impressions, one_hot, score_request
from tests.server.serving import Client


def use(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> None:
    """Have this machine pretend to have a GPU, or one that is at fault."""

    def opened() -> Device:
        return open_device(EmulatedCupy(**faults))

    monkeypatch.setattr(cupy_device, "open_device", opened)


def teach(client: Client) -> tuple[Any, str, str]:
    """Slates after some feedback, the hash of the state, and the name of the backend."""
    for number in range(30):
        shown = impression(f"r{number}", f"item-{number % 7}", f"item-{number % 5 + 8}", context=one_hot())
        client.feedback.LogImpressions(impressions(shown), timeout=DEADLINE_S)
        if number % 3 == 0:
            liked = clicks(click(f"r{number}", f"item-{number % 7}"))
            client.feedback.LogClicks(liked, timeout=DEADLINE_S)
    request = score_request(*(f"item-{number}" for number in range(20)), seed=3, request_id="s")
    scored = client.recommender.Score(request, timeout=DEADLINE_S)
    status = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    return [(item.item_id, item.score, item.width) for item in scored.items], status.state_hash, status.backend


def test_slates_and_state_are_those_of_the_processor(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Feedback is added on the device, single slates are filled by the processor: to callers nothing changes."""
    use(monkeypatch)
    slates, state, backend = teach(start(backend="cupy", data_dir=tmp_path / "gpu")[1])
    others, expected, _ = teach(start(backend="numpy", data_dir=tmp_path / "cpu")[1])
    assert backend == "cupy"
    assert slates == others
    assert state == expected


def test_a_gpu_whose_memory_is_full_stops_no_server(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The sums do not fit: one line in the log, and the processor adds."""
    use(monkeypatch, memory=100_000)
    _, state, _ = teach(
        start(backend="cupy", data_dir=tmp_path / "gpu", log={"level": "warning", "format": "json"})[1]
    )
    _, expected, _ = teach(start(backend="numpy", data_dir=tmp_path / "cpu")[1])
    assert state == expected
    told = [line for line in capfd.readouterr().err.splitlines() if "GPU memory" in line]
    assert len(told) == 1
    assert "on the processor from here on" in told[0]


@pytest.mark.parametrize(
    ("faults", "status", "found"),
    [
        ({}, "ok", "an emulated device, 4 of 4 GiB free; agrees with NumPy; ready in"),
        ({"devices": CUDARuntimeError("driver version is insufficient")}, "warn", "driver version is insufficient"),
        ({"broken": "error: nonsense"}, "warn", "the device cannot be used: RuntimeError: error: nonsense"),
    ],
)
def test_the_doctor_says_what_gpu_it_found(
    monkeypatch: pytest.MonkeyPatch, faults: dict[str, Any], status: str, found: str
) -> None:
    """One that works is named, with its memory; one that does not, with the reason and what to do."""
    use(monkeypatch, **({"memory": 1 << 32} | faults))
    monkeypatch.setattr(machine_checks, "find_spec", lambda name: object())
    finding = machine_checks.gpu()
    assert finding.status == status
    assert found in finding.found
    assert bool(finding.fix) == (status != "ok")

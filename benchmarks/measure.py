"""How things are timed here: interleaved rounds, CPU time, medians with their spread, the machine named.

Invariants: what is compared runs in the same rounds, in an order that alternates, so that whatever else the machine
does hits both; a ratio is the median of the rounds' ratios.
"""

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROUNDS = 7


@dataclass(frozen=True)
class Result:
    """One measured quantity.

    Attributes:
        name: what was measured.
        value: median over the rounds.
        low: smallest round.
        high: largest round.
        unit: of the three.
        note: what a reader must know.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    note: str = ""

    @classmethod
    def of(cls, name: str, values: Iterable[float], unit: str, note: str = "") -> "Result":
        values = list(values)
        return cls(name, statistics.median(values), min(values), max(values), unit, note)


def interleaved(
    contenders: Mapping[str, Callable[[int], object]],
    *,
    rounds: int = ROUNDS,
    prepare: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """CPU seconds of every contender in every round; each is given the number of the round.

    `prepare` is called before each, untimed, with the name of the contender.
    """
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            prepare(name)
            began = time.process_time()
            contenders[name](number)
            spent[name].append(time.process_time() - began)
    return spent


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(slow, fast, strict=True)]


def _versions(*names: str) -> Iterator[str]:
    """Those that are installed: what measures a GPU runs without the rest."""
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def machine() -> str:
    """The machine in one line: processor, cores, memory, versions, load."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(_versions("numpy", "numba", "grpcio", "rocksdict"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB; Python {platform.python_version()}, {libraries}; "
        f"load average {load}"
    )

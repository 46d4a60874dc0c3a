"""Runs the benchmarks: `python -m benchmarks [NAMES] [--quick] [--json] [--write]`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measure import machine

NAMES = (
    "update",
    "score",
    "sizes",
    "retrieval",
    "vowpal",
    "decode",
    "joiner",
    "log_bytes",
    "commit",
    "serving",
    "tail",
    "items_live",
    "replay",
    "drift",
)


def measure(names: Sequence[str], *, quick: bool, tell: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """Run benchmarks by name; what `benchmarks.report` takes, and the machine that it was measured on.

    Args:
        names: of `NAMES`.
        quick: tiny sizes.
        tell: is told what is being measured.
    """
    named = machine()  # before: the load that the benchmarks met, not the one they made
    measured = {}
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        tell(f"{module.TITLE} ...")
        measured[name] = (module, module.run(quick))
    return measured, named


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"expected names of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    if options.write and (options.quick or options.names):
        parser.error("--write takes a whole, full run")
    measured, named = measure(options.names or NAMES, quick=options.quick, tell=_tell)
    if options.write:
        report.write(measured, named, Path(__file__).parents[1] / "docs")
    print(report.as_json(measured, named) if options.json else report.text(measured, named))
    return 0


if __name__ == "__main__":
    sys.exit(main())

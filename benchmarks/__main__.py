"""Runs the benchmarks: `python -m benchmarks [NAMES] [--quick] [--json] [--write]`."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.measure import machine

NAMES = ("update", "score", "joiner", "commit", "serving", "replay")


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
    named = machine()  # before: the load that the benchmarks met, not the one they made
    measured = {}
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"{module.TITLE} ...", file=sys.stderr, flush=True)
        measured[name] = (module, module.run(options.quick))
    if options.write:
        report.write(measured, named, Path(__file__).parents[1] / "docs")
    print(report.as_json(measured, named) if options.json else report.text(measured, named))
    return 0


if __name__ == "__main__":
    sys.exit(main())

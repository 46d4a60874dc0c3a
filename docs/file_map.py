"""Rewrites the file map of ARCHITECTURE.md from the first sentence of every module: `python docs/file_map.py`."""

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- file map -->", "<!-- end of file map -->"
_PACKAGES = ("bandits", "streams", "server", "protos", "benchmarks", "deploy")


def modules() -> list[Path]:
    """Modules that have a line in the map, relative to the root: generated ones have none."""
    found = (path.relative_to(ROOT) for package in _PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in found if "_pb2" not in path.name)


def file_map() -> str:
    """The map: a table for each folder."""
    parts = []
    for folder, members in groupby(
        sorted(modules(), key=lambda path: (path.parent.as_posix(), path.name)), _folder
    ):
        parts += ["", f"### {folder}/", "", "| module | what it does |", "|---|---|"]
        parts += [f"| `{path.name}` | {_first_sentence(ROOT / path)} |" for path in members]
    return "\n".join([*parts, ""])


def _folder(path: Path) -> str:
    return path.parent.as_posix()


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    document = ROOT / "ARCHITECTURE.md"
    before, _, rest = document.read_text().partition(START)
    document.write_text(f"{before}{START}\n{file_map()}\n{END}{rest.partition(END)[2]}")

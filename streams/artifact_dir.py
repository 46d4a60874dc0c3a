"""A directory that graphs are placed in: which artifacts lie there, newest first, and those that can be loaded.

Invariant: an artifact counts by its files as they are: one that was refused is tried again when they have changed.
"""

from pathlib import Path

from bandits.artifact import MANIFEST, DamagedGraph, load_graph, read_manifest
from bandits.graph import Graph

_MAX_ARTIFACTS = 10_000  # of one look

Signature = tuple[tuple[str, int, int], ...]


def artifacts(directory: Path) -> list[tuple[str, Signature]]:
    """Names and files of the artifacts, those first whose manifest was written last.

    Raises:
        OSError: the directory cannot be read.
    """
    found: list[tuple[int, str]] = []
    for at, folder in enumerate(directory.iterdir()):
        manifest = folder / MANIFEST
        if at < _MAX_ARTIFACTS and not folder.name.startswith(".") and manifest.is_file():
            found.append((manifest.stat().st_mtime_ns, folder.name))
    return [(name, _signature(directory / name)) for _, name in sorted(found, reverse=True)]


def load_version(directory: Path, version: str) -> Graph | None:
    """The graph of a version, None if no artifact there has it.

    Raises:
        DamagedGraph: the one that has it is damaged.
        OSError: the directory cannot be read.
    """
    for name, _ in artifacts(directory):
        try:
            found = read_manifest(directory / name).version
        except DamagedGraph:
            continue
        if found == version:
            return load_graph(directory / name)
    return None


class NewestGraph:
    """Looks for an artifact that is newer than the one in force.

    Args:
        directory: holds artifacts.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before: tuple[str, Signature] | None = None
        self._refused: dict[str, Signature] = {}

    def first(self) -> Graph | None:
        """The newest that can be loaded.

        Raises:
            OSError: the directory cannot be read.
        """
        for name, signature in artifacts(self._directory):
            try:
                return load_graph(self._directory / name)
            except DamagedGraph:
                self._refused[name] = signature
        return None

    def look(self, in_force: str) -> Graph | None:
        """The newest if it is another version than the one in force and its files have not changed since last time.

        Raises:
            DamagedGraph: it is damaged; told once.
            OSError: the directory cannot be read.
        """
        newest = next(iter(artifacts(self._directory)), None)
        before, self._before = self._before, newest
        if newest is None or newest != before or self._refused.get(newest[0]) == newest[1]:
            return None
        name, signature = newest
        try:
            if read_manifest(self._directory / name).version == in_force:
                return None
            return load_graph(self._directory / name)
        except DamagedGraph:
            self._refused[name] = signature
            raise


def _signature(folder: Path) -> Signature:
    states = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((path, state.st_size, state.st_mtime_ns) for path, state in states)

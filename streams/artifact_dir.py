"""A directory that graphs are placed in: which artifacts lie there, newest first, and those that can be loaded.

Invariant: an artifact counts by its files as they are: one that was refused is tried again when they have changed.
"""

from collections.abc import Sequence
from pathlib import Path

from bandits.artifact import MANIFEST, DamagedGraph, load_graph, read_manifest
from bandits.graph import Graph
from streams.overlap_folder import DamagedOverlap, StoredOverlap, load_overlap, overlap_name

OVERLAP = "overlap"  # folder within an artifact: the map that sums are inherited through
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


class NoArtifact(LookupError):
    """No folder has what is looked for; the message names the folders."""


class Artifacts:
    """Finds graphs by version and overlap maps by name.

    Args:
        folders: each an artifact, or a directory that holds some; those that do not exist are passed over.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def first(self) -> Graph:
        """The artifact that is named first, or the newest of the directory that is.

        Raises:
            NoArtifact: there is none.
            DamagedGraph: it is damaged.
            OSError: a directory cannot be read.
        """
        for folder in self._all():
            return load_graph(folder)
        for folder in self._folders:
            return load_graph(folder)  # says what is wrong with it
        raise NoArtifact("expected the artifact that the workers learn under, got none")

    def folder(self, version: str) -> Path:
        """Where the artifact of a version lies.

        Raises:
            NoArtifact: nowhere.
            OSError: a directory cannot be read.
        """
        for folder in self._all():
            try:
                if read_manifest(folder).version == version:
                    return folder
            except DamagedGraph:
                continue
        raise NoArtifact(f"no artifact of graph {version} in {self._named()}")

    def graph(self, version: str) -> Graph:
        """The graph of a version.

        Raises:
            NoArtifact: there is none.
            DamagedGraph: the artifact that has it is damaged.
            OSError: a directory cannot be read.
        """
        return load_graph(self.folder(version))

    def overlap(self, name: str) -> StoredOverlap:
        """The overlap map of a name: within an artifact, or beside artifacts.

        Raises:
            NoArtifact: there is none.
            DamagedOverlap: it is damaged.
            OSError: a directory cannot be read.
        """
        beside = (folder for parent in self._folders if parent.is_dir() for folder in parent.iterdir())
        for folder in (*(folder / OVERLAP for folder in self._all()), *beside):
            try:
                if overlap_name(folder) == name:
                    return load_overlap(folder)
            except DamagedOverlap:
                continue
        raise NoArtifact(f"no overlap map {name} in {self._named()}")

    def _all(self) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            if (folder / MANIFEST).is_file():
                found.append(folder)
            elif folder.is_dir():
                found += [folder / name for name, _ in artifacts(folder)]
        return found

    def _named(self) -> str:
        return ", ".join(map(str, self._folders))


class NewestGraph:
    """Looks for an artifact that is newer than the one in force.

    Args:
        directory: holds artifacts.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before: tuple[str, Signature] | None = None
        self._handled: tuple[str, Signature] | None = None

    def first(self) -> Graph | None:
        """The newest that can be loaded.

        Raises:
            OSError: the directory cannot be read.
        """
        for found in artifacts(self._directory):
            self._handled = self._handled or found
            try:
                return load_graph(self._directory / found[0])
            except DamagedGraph:
                continue
        return None

    def look(self) -> tuple[Path, Graph] | None:
        """The newest and its folder, once: when it is another than before, and its files no longer change.

        Raises:
            DamagedGraph: it is damaged; told once.
            OSError: the directory cannot be read.
        """
        newest = next(iter(artifacts(self._directory)), None)
        before, self._before = self._before, newest
        if newest is None or newest != before or newest == self._handled:
            return None
        self._handled = newest
        folder = self._directory / newest[0]
        return folder, load_graph(folder)


def _signature(folder: Path) -> Signature:
    states = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((path, state.st_size, state.st_mtime_ns) for path, state in states)

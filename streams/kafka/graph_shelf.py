"""The graphs that a worker's learner partitions are under: several while another artifact takes over.

Invariants: partitions under one graph share its sums; a partition that comes under a graph finds it as the artifact
has it, without changes of its items that it made there before.
"""

import asyncio

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.overlap import OverlapMap
from streams.artifact_dir import Artifacts, NoArtifact
from streams.kafka.shared_sums import SharedSums
from streams.overlap_folder import StoredOverlap


class GraphShelf:
    """Sums by graph.

    Args:
        artifacts: finds them.
        n_partitions: of the ledger.
        backend: adds the facts.
        wanted: the graph that partitions begin with; it is kept although none may be under it.
    """

    def __init__(self, artifacts: Artifacts, n_partitions: int, backend: Backend, wanted: Graph) -> None:
        self.artifacts = artifacts
        self.wanted = wanted
        self._n_partitions = n_partitions
        self._backend = backend
        self._held: list[SharedSums] = []
        self._loaded = {wanted.version: wanted}
        self._overlaps: dict[str, StoredOverlap] = {}
        self._loading = asyncio.Lock()
        self._tried = ""

    def add(self, graph: Graph) -> None:
        """Keep a graph that has been loaded until the next `drop_unused`."""
        self._loaded.setdefault(graph.version, graph)

    def load(self, version: str, number: int, overlap: str = "") -> None:
        """Load what a partition needs to come under a graph.

        Raises:
            NoArtifact: it is nowhere.
            DamagedGraph, DamagedOverlap: it is damaged.
            OSError: a directory cannot be read.
        """
        if version not in self._loaded:
            self._loaded[version] = self.artifacts.graph(version)
        if overlap and overlap not in self._overlaps:
            self._overlaps = {overlap: self.artifacts.overlap(overlap)}
        if self._find(version, number) is None:
            self._held.append(SharedSums.empty(self._loaded[version], self._n_partitions, self._backend))

    async def load_aside(self, version: str, number: int, overlap: str = "") -> None:
        """`load` in a thread of its own, if there is anything to load."""
        async with self._loading:  # partitions that come under one graph at once share its sums
            known = version in self._loaded and (not overlap or overlap in self._overlaps)
            if not known or self._find(version, number) is None:
                await asyncio.to_thread(self.load, version, number, overlap)

    async def refusal(self, version: str, number: int, old: Graph, overlap: str = "") -> str:
        """Why a partition cannot come under a graph; empty if it can, and the graph is then kept for it."""
        self._tried = version
        try:
            await self.load_aside(version, number, overlap)
            self.overlap(overlap, old, self._loaded[version])
        except (NoArtifact, ValueError, OSError) as error:
            self._tried = ""
            return str(error)
        return ""

    def sums_of(self, version: str, number: int) -> SharedSums:
        """The sums of a graph for a partition to come under; it has been loaded."""
        found = self._find(version, number)
        if found is None:
            self.load(version, number)
            found = self._held[-1]
        return found

    def overlap(self, name: str, old: Graph, new: Graph) -> OverlapMap | None:
        """A map that has been loaded, None for no name.

        Raises:
            ValueError: it is not between the clusters of these graphs.
        """
        if not name:
            return None
        stored = self._overlaps.get(name) or self.artifacts.overlap(name)
        stored.check(old, new)
        return stored.overlap

    def drop_unused(self) -> None:
        """Forget graphs that no partition is under."""
        self._held = [shared for shared in self._held if shared.holders or shared.base_version == self._tried]
        versions = {self.wanted.version, self._tried, *(shared.base_version for shared in self._held)}
        self._loaded = {version: graph for version, graph in self._loaded.items() if version in versions}

    def _find(self, version: str, number: int) -> SharedSums | None:
        for shared in self._held:
            if shared.base_version == version and number not in shared.edited_for:
                return shared
        return None

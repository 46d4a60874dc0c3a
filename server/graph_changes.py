"""How operators change the graph: load another artifact, add, change and retire items.

Invariants: one change at a time, each from the graph that the one before it left; a graph is read from inside the
one directory that is set for it; no two graphs of a server's life share a version.
"""

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import grpc
import numpy as np

from bandits.artifact import load_graph
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from freshet.v1 import events_pb2
from server import limits
from server.errors import Refused, invalid_field, no_graph
from server.item_places import ItemPlaces
from server.requests import check_ids, check_text
from streams.graph_switching import GraphSwitch
from streams.overlap_folder import StoredOverlap, load_overlap

_EDITED = re.compile(r"(?P<base>.*)\+(?P<number>\d+)", re.DOTALL)


class GraphHolder(Protocol):
    """What has a graph in force: the embedded loop."""

    @property
    def graph(self) -> Graph | None:
        """The graph in force."""

    def load_graph(self, graph: Graph, overlap: StoredOverlap | None = None) -> GraphSwitch:
        """Switch to another graph."""

    def edit_graph(self, edit: GraphEdit) -> Graph:
        """Add, change and retire items."""


class GraphChanges:
    """Changes the graph of a loop.

    Args:
        loop: has the graph.
        graph_dir: the only directory to load from; None = loading is off.
        places: finds the clusters of items.
        clock_ms: Unix milliseconds, for unique versions.
    """

    def __init__(
        self, loop: GraphHolder, *, graph_dir: Path | None, places: ItemPlaces, clock_ms: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._graph_dir = graph_dir
        self._places = places
        self._clock_ms = clock_ms
        self._one_at_a_time = threading.Lock()

    def load(self, path: str, *, overlap_path: str = "") -> tuple[Graph, GraphSwitch]:
        """Switch to an artifact.

        Args:
            path: of the artifact, inside the directory.
            overlap_path: of the overlap map that sums are inherited through, where clusters were made anew.

        Raises:
            Refused: INVALID_ARGUMENT if a path leads outside, FAILED_PRECONDITION if what lies there is damaged,
                does not fit the graph in force, or has the version of another graph.
        """
        folder = self._inside("path", path)
        overlap_folder = self._inside("overlap_path", overlap_path) if overlap_path else None
        with self._one_at_a_time:
            field = "path"
            try:
                graph = load_graph(folder)
                field = "overlap_path" if overlap_folder else field
                overlap = load_overlap(overlap_folder) if overlap_folder else None
                return graph, self._loop.load_graph(graph, overlap)
            except ValueError as error:  # damaged, or another graph under a version that the store has
                code, message = grpc.StatusCode.FAILED_PRECONDITION, f"{field}: {error}"
                raise Refused(code, message, reason="bad_graph") from None

    def upsert(self, items: Sequence[events_pb2.Item]) -> Graph:
        """Add items, or attach them elsewhere.

        Raises:
            Refused: INVALID_ARGUMENT naming the first bad field; FAILED_PRECONDITION without a graph.
        """
        if not 1 <= len(items) <= limits.MAX_CHANGED_ITEMS:
            raise invalid_field("items", f"1 to {limits.MAX_CHANGED_ITEMS} items", f"{len(items)} items")
        ids = [item.item_id for item in items]
        check_ids("items", ids, largest_count=limits.MAX_CHANGED_ITEMS, within=".item_id")
        with self._one_at_a_time:
            old = self._graph()
            clusters = self._places.clusters(old, items)
            times = [item.published_at_ms for item in items]
            return self._loop.edit_graph(GraphEdit(self._next_version(old), ids, clusters, times))

    def retire(self, item_ids: Sequence[str]) -> tuple[Graph, list[str]]:
        """Take items out; the graph after it, and the ids that it did not know.

        Raises:
            Refused: INVALID_ARGUMENT naming the first bad field; FAILED_PRECONDITION without a graph.
        """
        check_ids("item_ids", item_ids, largest_count=limits.MAX_CHANGED_ITEMS)
        with self._one_at_a_time:
            old = self._graph()
            known = old.lookup(item_ids) >= 0
            unknown = [item_ids[at] for at in np.flatnonzero(~known).tolist()]
            if not known.any():
                return old, unknown
            return self._loop.edit_graph(GraphEdit(self._next_version(old), retired=item_ids)), unknown

    def _graph(self) -> Graph:
        graph = self._loop.graph
        if graph is None:
            raise no_graph()
        return graph

    def _inside(self, field: str, path: str) -> Path:
        check_text(field, path, smallest=1, largest=limits.MAX_PATH_BYTES)
        if self._graph_dir is None:
            message = "no directory to load graphs from is set (graph_dir)"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message, reason="no_graph_dir")
        allowed = self._graph_dir.resolve()
        try:
            folder = (allowed / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a null byte, a loop of links
            raise invalid_field(field, "a directory", path) from None
        if not folder.is_relative_to(allowed):
            raise invalid_field(field, "a directory inside graph_dir", path)
        return folder

    def _next_version(self, graph: Graph) -> str:
        # The time keeps versions apart when the same artifact is loaded and edited again.
        edited = _EDITED.fullmatch(graph.version)
        base, last = (edited["base"], int(edited["number"])) if edited else (graph.version, 0)
        return f"{base}+{max(last + 1, self._clock_ms())}"

"""How the embedded loop changes its graph: another artifact, an edit, and an artifact anew after many edits.

Invariants: only the writer thread changes the graph; an artifact lies in the data directory, whole, before it is
put in force; a version names one graph for ever. What takes long, building and writing an artifact anew, is done in
a thread of its own, and what was edited meanwhile is done again on it.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandits.artifact import save_graph
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, compacted, edited
from bandits.sums import locate
from streams.commit import Committer
from streams.failpoints import failpoint
from streams.graph_history import graph_folder, overlap_folder, restore_artifact
from streams.overlap_folder import StoredOverlap, save_overlap


@dataclass(frozen=True)
class GraphSwitch:
    """What a graph switch did to the edges."""

    kept: int
    added: int
    dropped: int


class GraphSwitching:
    """Changes the graph of a committer; every method but `close` is called by the writer thread.

    Args:
        data_dir: where artifacts are kept.
        committer: has the graph.
        max_edited_items: so many items edited, and the artifact is written anew.
        on_writer: runs something on the writer thread, from any other; raises once the loop has stopped.
    """

    def __init__(
        self,
        data_dir: Path,
        committer: Committer,
        *,
        max_edited_items: int,
        on_writer: Callable[[Callable[[], None]], None],
    ) -> None:
        self._data_dir = data_dir
        self._committer = committer
        self._max_edited_items = max_edited_items
        self._on_writer = on_writer
        self._later: list[GraphEdit] | None = None  # edits since a compaction began; None = none is under way
        self._thread: threading.Thread | None = None

    @property
    def graph(self) -> Graph | None:
        """The graph in force."""
        learner = self._committer.learner
        return learner.graph if learner else None

    def adopt(self, graph: Graph, overlap: StoredOverlap | None = None) -> None:
        """Put an artifact in force.

        Raises:
            ValueError: its version was another graph's before.
        """
        folder = graph_folder(self._data_dir, graph.version)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            save_graph(graph, folder)
        elif not _equal(restore_artifact(self._data_dir, graph.version), graph):
            # The store knows graphs by version: after a restart it would go on with the other one.
            raise ValueError(f'graph version: expected a new one, got "{graph.version}", which is another graph')
        self._later = None  # a compaction that is under way comes too late
        if overlap is None:
            self._committer.set_graph(graph)
            return
        old = self.graph
        name = f"{overlap.old}-{overlap.new}-{self._committer.head.graph_switches}"
        if old is None:
            raise ValueError("overlap: expected a graph in force to inherit from, got none")
        shutil.rmtree(overlap_folder(self._data_dir, name), ignore_errors=True)  # of a switch that was never made
        save_overlap(overlap.overlap, overlap_folder(self._data_dir, name), old=old, new=graph)
        self._committer.set_graph(graph, overlap=(name, overlap.overlap))

    def switch(self, graph: Graph, overlap: StoredOverlap | None) -> GraphSwitch:
        """Put another artifact in force and hand it over. Edges and items in both keep their sums.

        Raises:
            ValueError: its version was another graph's before, or the map is not between these clusters.
        """
        old = self.graph
        if old is not None and overlap is not None:
            overlap.check(old, graph)
        if old is not None and _equal(old, graph):
            return GraphSwitch(old.n_edges, 0, 0)
        kept = shared_edges(old, graph) if old and overlap is None else 0
        had = old.n_live_edges if old else 0
        self.adopt(graph, overlap)
        self._committer.catch_up()
        self._committer.publish_all()
        return GraphSwitch(kept, graph.n_edges - kept, had - kept)

    def edit(self, edit: GraphEdit) -> Graph:
        """Edit the graph in force.

        Raises:
            ValueError: there is none, or the edit does not fit it.
        """
        old = self.graph
        if old is None:
            raise ValueError("graph: expected one in force, got none")
        graph = edited(old, edit)
        if (graph.n_items, graph.n_live_items) == (old.n_items, old.n_live_items):
            return old  # everything was so already
        self._committer.edit_graph(graph, edit)
        if self._later is not None:
            self._later.append(edit)
        self._compact_if_due(graph)
        return graph

    def close(self) -> None:
        """Wait for a compaction that is under way; it gives up when it finds the loop stopped."""
        if self._thread is not None:
            self._thread.join()

    def _compact_if_due(self, graph: Graph) -> None:
        edits = graph.edits
        if edits is None or len(edits.numbers) < self._max_edited_items or self._later is not None:
            return
        later: list[GraphEdit] = []
        self._later = later
        self._thread = threading.Thread(
            target=self._compact, args=(graph, later), name="freshet-compact", daemon=True
        )
        self._thread.start()

    def _compact(self, graph: Graph, later: list[GraphEdit]) -> None:
        whole = compacted(graph)
        folder = graph_folder(self._data_dir, graph.version)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that ended before it was put in force
        try:
            save_graph(whole, folder)  # its check has made the index, too
            failpoint("compacted")
        except OSError:  # no room: edits go on without, and the next one tries again
            self._later = None
            return
        with contextlib.suppress(RuntimeError):  # the loop has stopped
            self._on_writer(lambda: self._put_in_force(whole, graph, later))

    def _put_in_force(self, whole: Graph, before: Graph, later: list[GraphEdit]) -> None:
        if self._later is later:  # else another artifact was put in force meanwhile
            self._later = None
            self._committer.compact_graph(whole, before, later)


def _equal(one: Graph, other: Graph) -> bool:
    if (one.version, one.n_clusters) != (other.version, other.n_clusters) or one.edits or other.edits:
        return False
    arrays = (
        (one.item_ptr, other.item_ptr),
        (one.edge_cluster, other.edge_cluster),
        (one.centroids, other.centroids),
    )
    return list(one.item_ids) == list(other.item_ids) and all(map(np.array_equal, *zip(*arrays, strict=True)))


def shared_edges(old: Graph, new: Graph) -> int:
    """Number of edges that two graphs have in common."""
    owner = np.repeat(old.lookup(new.item_ids), np.diff(new.item_ptr))
    return int(np.count_nonzero(locate(old, owner, new.edge_cluster[:, None]) >= 0))

"""The graphs of a store: which was in force when, as records, and the graph or the state that they lead to.

Invariants: equal records give equal graphs with equal numbers, live, after a restart and in `verify`; the last
artifact and the edits after it are all that a restart reads.
"""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np

from bandits.artifact import DamagedGraph, load_graph
from bandits.graph import Bool, Graph
from bandits.graph_edit import GraphEdit, compacted, edited
from bandits.learner import Learner
from bandits.overlap import OverlapMap
from freshet.v1 import events_pb2, state_pb2
from streams import store as keys
from streams.overlap_folder import load_overlap
from streams.store import Store, StoreError


def graph_folder(data_dir: Path, version: str) -> Path:
    """Where the loop keeps its copy of a graph version, whatever characters its name has."""
    return data_dir / "graphs" / quote(version, safe="").replace(".", "%2E")


def overlap_folder(data_dir: Path, name: str) -> Path:
    """Where the loop keeps its copy of an overlap map."""
    return data_dir / "overlaps" / quote(name, safe="").replace(".", "%2E")


def restore_artifact(data_dir: Path, version: str) -> Graph:
    """The artifact of a version that a store needs.

    Raises:
        StoreError: it is damaged or gone.
    """
    try:
        return load_graph(graph_folder(data_dir, version))
    except DamagedGraph as error:
        raise StoreError(f"the graph that the store in {data_dir} needs cannot be loaded: {error}") from error


def restore_overlap(data_dir: Path, name: str) -> OverlapMap:
    """An overlap map that a store needs.

    Raises:
        StoreError: it is damaged or gone.
    """
    try:
        return load_overlap(overlap_folder(data_dir, name)).overlap
    except ValueError as error:
        raise StoreError(f"the overlap map that the store in {data_dir} needs cannot be read: {error}") from error


def restore_graph(store: Store, data_dir: Path, head: state_pb2.StoreHead) -> Graph:
    """The graph in force.

    Raises:
        StoreError: an artifact is damaged or gone, or the records do not lead to the version in force.
    """
    base, edits = "", list[GraphEdit]()
    for _, switch in switches(store, start=head.graph_base):
        if switch.WhichOneof("how") == "edit":
            edits.append(edit_of(switch))
        elif switch.compacted:
            base = switch.graph_version
            # Where all records are read, for want of a base, what the artifact has already must not come again.
            versions = [edit.version for edit in edits]
            edits = edits[versions.index(base) + 1 :] if base in versions else edits
        else:
            base, edits = switch.graph_version, []
    artifact = restore_artifact(data_dir, base)
    graph = edited(artifact, *edits) if edits else artifact
    if graph.version != head.graph_version:
        raise StoreError(
            f"the store in {data_dir} is damaged: its graphs lead to {graph.version}, not to {head.graph_version}"
        )
    return graph


def switches(store: Store, *, start: int = 0) -> Iterable[tuple[int, state_pb2.GraphSwitch]]:
    """Records of graphs put in force, from a number on."""
    for number, value in store.numbered(keys.GRAPH, start=start):
        yield number, state_pb2.GraphSwitch.FromString(value)


class Unfolding:
    """A learner that is led through the graphs of a store, from the first on.

    Args:
        data_dir: has the artifacts.
        learner: nothing learned yet, under the first graph.
    """

    def __init__(self, data_dir: Path, learner: Learner) -> None:
        self.learner = learner
        self._data_dir = data_dir
        self._base = learner.graph
        self._edits: list[GraphEdit] = []

    def switch(self, switch: state_pb2.GraphSwitch) -> None:
        """Go on with the next graph.

        Raises:
            StoreError: an artifact is damaged or gone.
        """
        how = switch.WhichOneof("how")
        if how == "edit":
            self._edits.append(edit_of(switch))
            self.learner.edit_graph(edited(self.learner.graph, self._edits[-1]))
        elif how == "compacted":
            done = [edit.version for edit in self._edits].index(switch.graph_version) + 1
            then = edited(self._base, *self._edits[:done])
            self._base, self._edits = compacted(then), self._edits[done:]
            self.learner.compact_graph(*with_later(self._base, then, self._edits))
        else:
            graph = restore_artifact(self._data_dir, switch.graph_version)
            overlap = restore_overlap(self._data_dir, switch.overlap) if how == "overlap" else None
            self.learner.switch_graph(graph, overlap=overlap)
            self._base, self._edits = graph, []


def with_later(whole: Graph, before: Graph, later: list[GraphEdit]) -> tuple[Graph, Bool]:
    """A graph that was built anew from `before`, with what was edited since; and which numbers, as edited, stay."""
    graph = edited(whole, *later) if later else whole
    live = np.ones(before.n_items, np.bool_) if before.edits is None else before.edits.live
    return graph, np.concatenate([live, np.ones(graph.n_items - whole.n_items, np.bool_)])


def edit_of(switch: state_pb2.GraphSwitch) -> GraphEdit:
    """The edit that a record holds."""
    items = switch.edit.upserted
    return GraphEdit(
        version=switch.graph_version,
        item_ids=[item.item_id for item in items],
        clusters=[np.fromiter(item.cluster_ids.values, np.int64) for item in items],
        published_ms=[item.published_at_ms for item in items],
        retired=list(switch.edit.retired_item_ids),
    )


def edit_message(edit: GraphEdit) -> state_pb2.GraphEdit:
    """An edit as a record holds it."""
    times = edit.published_ms or [0] * len(edit.item_ids)
    items = [
        events_pb2.Item(
            item_id=item_id,
            cluster_ids=events_pb2.ClusterIds(values=np.asarray(row, np.int64).tolist()),
            published_at_ms=at_ms,
        )
        for item_id, row, at_ms in zip(edit.item_ids, edit.clusters, times, strict=True)
    ]
    return state_pb2.GraphEdit(upserted=items, retired_item_ids=edit.retired)

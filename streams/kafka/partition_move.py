"""Moves a learner partition from the graph that it was under to another.

Invariants: what the sums become depends on the partition's sums and the two graphs alone, and is what a switch of
the whole graph would make of them; every row that had learned something says that it includes the mark.

Of the catalogue's changes those stay that the artifact knows nothing of: further items, and that items were
retired. Where clusters were made anew, a further item goes to those that its own became for the most part.
"""

from dataclasses import dataclass, replace

import numpy as np

from bandits.graph import Graph
from bandits.graph_part import take_over
from bandits.overlap import OverlapMap
from streams.kafka.catalogue import Edited
from streams.kafka.ledger import partitions_of
from streams.kafka.shared_sums import SharedSums


@dataclass(frozen=True)
class Left:
    """What a partition had and has no longer.

    Attributes:
        rows: ids of items whose rows are gone.
        edited: ids of items that the catalogue had changed, and that are now as the artifact has them.
    """

    rows: list[str]
    edited: list[str]


def move_partition(
    number: int, old: SharedSums, new: SharedSums, *, at: int, overlap: OverlapMap | None = None
) -> Left:
    """Take a partition's sums over; those in `old` stay as they are.

    Args:
        number: of the partition.
        old: sums of the graph that it was under.
        new: sums of the other graph; nothing of the partition is there.
        at: ledger position behind the mark.
        overlap: where clusters were made anew, the map that sums are inherited through.
    """
    edited = _of_partition(number, old)
    kept = edits_kept(edited, new.graph, overlap)
    if kept:
        new.edit(kept, number=number, position=0)
    before = old.items_of(number)
    names = [old.graph.item_ids[item] for item in before.tolist()]
    after = new.graph.lookup(names, retired=True)
    found, had = after >= 0, old.row_position[before] > 0
    take_over(old.graph, old.sums, before[found], new.graph, new.sums, after[found], overlap=overlap)
    new.row_position[after[found]] = np.where(had[found], at, 0)
    gone = np.flatnonzero(had & ~found).tolist()
    return Left([names[item] for item in gone], [name for name in edited if name not in kept])


def edits_kept(edited: dict[str, Edited], graph: Graph, overlap: OverlapMap | None = None) -> dict[str, Edited]:
    """Which of the catalogue's changes stay when another artifact comes into force.

    Args:
        edited: changes under the graph before.
        graph: of the artifact.
        overlap: as in `move_partition`.
    """
    numbers = graph.lookup([*edited], retired=True).tolist()
    kept: dict[str, Edited] = {}
    for (name, one), number in zip(edited.items(), numbers, strict=True):
        if number >= 0:
            if one.retired:
                row = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]]
                kept[name] = replace(one, clusters=tuple(row.tolist()))
            continue
        clusters = one.clusters if overlap is None else _became(one.clusters, overlap)
        if max(clusters, default=-1) < graph.n_clusters:
            kept[name] = replace(one, clusters=clusters)
    return kept


def _became(clusters: tuple[int, ...], overlap: OverlapMap) -> tuple[int, ...]:
    """The new clusters that have the largest shares of some old ones, ascending."""
    found: set[int] = set()
    for cluster in clusters:
        start, end = int(overlap.ptr[cluster]), int(overlap.ptr[cluster + 1])
        if start < end:
            found.add(int(overlap.cluster[start + int(np.argmax(overlap.share[start:end]))]))
    return tuple(sorted(found))


def _of_partition(number: int, shared: SharedSums) -> dict[str, Edited]:
    names = [*shared.edited]
    mine = (partitions_of(names, shared.n_partitions) == number).tolist() if names else []
    return {name: shared.edited[name] for name, is_mine in zip(names, mine, strict=True) if is_mine}

"""A publication: the rows of a learner partition that changed, and its mark, as they are at one moment.

Invariant: it holds all rows that changed since the partition's last one, and bytes alone, so that the partition may
be folded further while it is written and sent.
"""

from dataclasses import dataclass

import numpy as np

from bandits.sums import Int32
from streams.failpoints import failpoint
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.parameter_rows import MARK_KEY, fence_key
from streams.kafka.sender import Pair
from streams.kafka.shared_sums import SharedSums
from streams.row_codec import encode_rows
from streams.store import Batch


@dataclass(frozen=True, eq=False)
class Publication:
    """What is written and published of a partition; the partition may be folded further meanwhile.

    Attributes:
        partition: it.
        position: of the ledger, that it includes.
        switched_at: the last switch of graphs that it includes.
        gone: items of which it takes the rows out.
        batch: for the store.
        pairs: for the parameters topic, in this order.
    """

    partition: LearnerPartition
    position: int
    switched_at: int
    gone: list[str]
    batch: Batch
    pairs: list[Pair]

    @classmethod
    def of(cls, partition: LearnerPartition, names: list[str], rows: list[bytes]) -> "Publication":
        """A publication of some rows as they are now."""
        batch = partition.batch(names, rows)
        gone = sorted(partition.gone)
        mark = partition.head.mark.SerializeToString()
        first: list[Pair] = []
        if partition.announced_at < partition.switched_at:
            # Whoever reads on from here knows that these rows are of another graph, before the mark comes.
            first = [(fence_key(partition.epoch), mark)]
        tombstones: list[Pair] = [(name.encode(), None) for name in gone]
        keys = [name.encode() for name in names]
        pairs = [*first, *zip(keys, rows, strict=True), *tombstones, (MARK_KEY, mark)]
        return cls(partition, partition.learner.position, partition.switched_at, gone, batch, pairs)

    def write(self) -> None:
        """Write it to the store; from any thread."""
        self.partition.store.write(self.batch)
        failpoint("learner-one-written")

    def remember(self, parameters_end: int | None) -> None:
        """Note that the broker has it.

        Args:
            parameters_end: of what the owner has read or written of the parameters topic; None = not known.
        """
        partition = self.partition
        if parameters_end is not None:
            partition.head.parameters_end = parameters_end
        partition.head.published_position = self.position
        partition.announced_at = self.switched_at
        partition.told(self.gone)


def changed_now(shared: SharedSums, items: Int32) -> Int32:
    """Items that have changed, by their numbers of then, as of now: each once, by partition, none that has left."""
    items, graph = np.unique(items), shared.graph
    if graph.edits is not None and not graph.edits.live[items].all():
        items = np.unique(graph.lookup([graph.item_ids[item] for item in items.tolist()], retired=True))
    items = items[np.isin(shared.partition[items], [*shared.holders])]
    return items[np.argsort(shared.partition[items], kind="stable")]


def rows_of(shared: SharedSums, items: Int32, epoch_of: dict[int, int]) -> dict[int, tuple[list[str], list[bytes]]]:
    """Names and rows of items by their partitions, as they are now.

    Args:
        shared: the sums.
        items: numbers, by partition.
        epoch_of: of the owner of each partition.
    """
    if not len(items):
        return {}
    numbers, starts = np.unique(shared.partition[items], return_index=True)
    epochs = np.repeat([epoch_of[number] for number in numbers.tolist()], np.diff(starts, append=len(items)))
    rows = encode_rows(shared.graph, shared.sums, shared.row_position, items, epochs)
    names = [shared.graph.item_ids[item] for item in items.tolist()]
    rows = shared.behind(names, rows)
    ends = [*starts[1:].tolist(), len(items)]
    places = zip(numbers.tolist(), starts.tolist(), ends, strict=True)
    return {number: (names[start:end], rows[start:end]) for number, start, end in places}

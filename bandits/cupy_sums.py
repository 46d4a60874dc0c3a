"""Sums that live on a GPU, with the rows of their graph: facts go there, changed rows come back when asked for.

Invariants: what is read back equals what the processor would have made of the same facts, bit for bit, and so does
the number of saturated sums; a row comes back only if it changed since it last did.
"""

from dataclasses import dataclass

import numpy as np

from bandits.cuda import LANES
from bandits.cupy_device import Device, DeviceArray, DeviceFull
from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.sums import LARGEST, UNIT, Facts, Int32, Int64, Sums

_LEAST_ROOM, _ROOM_SHARE = 4_096, 8  # as bandits.growing has it
_WHOLE_SHARE = 4  # if one row in so many may have changed, all are brought back in one piece
_FINDERS = 1 << 16  # threads that look for the largest sum
_MOST_REWARD, _MOST_SHOWN = (1 << 32) - 1, (1 << 8) - 1  # what the columns of a batch hold
_LAUNCH_LIMIT = 1 << 62  # most that one launch may add to a sum


@dataclass(eq=False)
class DeviceRows:
    """The rows of a graph and of its sums in the device's memory, with room behind them.

    Attributes:
        item_ptr: as in `Graph`.
        edge_cluster: as in `Graph`.
        item_key: uint64 of shape (n_items,), the first lane of `Graph.item_hashes`.
        edge_sums: as `Sums.edge`.
        item_sums: as `Sums.item`.
    """

    item_ptr: DeviceArray
    edge_cluster: DeviceArray
    item_key: DeviceArray
    edge_sums: DeviceArray
    item_sums: DeviceArray

    @classmethod
    def of(cls, device: Device, graph: Graph, sums: Sums) -> "DeviceRows":
        """A copy."""
        edges = max(_LEAST_ROOM, graph.n_edges // _ROOM_SHARE)
        items = max(_LEAST_ROOM, graph.n_items // _ROOM_SHARE)
        return cls(
            device.upload(graph.item_ptr, room=items),
            device.upload(graph.edge_cluster, room=edges),
            device.upload(np.ascontiguousarray(graph.item_hashes[:, 0]), room=items),
            device.upload(sums.edge, room=edges),
            device.upload(sums.item, room=items),
        )

    def fits(self, graph: Graph) -> bool:
        """Whether there is room for all rows of a graph."""
        return graph.n_edges <= len(self.edge_cluster) and graph.n_items <= len(self.item_key)

    def extend(self, device: Device, old: Graph, new: Graph, sums: Sums) -> None:
        """Put the rows that a graph has more behind the others."""
        device.write(self.item_ptr, old.n_items + 1, new.item_ptr[old.n_items + 1 :])
        device.write(self.edge_cluster, old.n_edges, new.edge_cluster[old.n_edges :])
        device.write(self.item_key, old.n_items, new.item_hashes[old.n_items :, 0])
        device.write(self.edge_sums, old.n_edges, sums.edge[old.n_edges :])
        device.write(self.item_sums, old.n_items, sums.item[old.n_items :])


@dataclass(frozen=True, eq=False)
class MovedFacts:
    """Facts on a device, until so many further moves to it as it has slots.

    Attributes:
        item: int32 of shape (n_facts,), on the host.
        columns: addresses of item, context, impressions, reward, context_ptr, context_cluster and context_x.
        growth: the most that one of them adds to any sum.
    """

    item: Int32
    columns: tuple[np.uint64, ...]
    growth: int


class ResidentSums:
    """Sums of one graph on a device.

    Args:
        device: where.
        graph: numbers the items.
        sums: copied.

    Raises:
        DeviceFull: they do not fit; nothing has been changed.
    """

    def __init__(self, device: Device, graph: Graph, sums: Sums) -> None:
        self.device, self.graph = device, graph
        self.rows = DeviceRows.of(device, graph, sums)
        self._count = device.filled(1, 0, np.uint64)
        self._changed: list[Int32] = []
        self._changes = 0
        self._largest = self._find_largest()

    def add(self, facts: Facts) -> int:
        """Add plain facts; how many sums that left at the largest value. Raises as `move`."""
        return self.add_moved(self.move(facts))

    def move(self, facts: Facts) -> MovedFacts:
        """Move plain facts to the device in one transfer.

        Raises:
            DeviceFull: the batch does not fit; nothing has been changed.
            ValueError: a number is out of the range that `Facts` gives.
        """
        most_reward, most_shown = _most("reward", facts.reward), _most("impressions", facts.impressions)
        if most_reward > _MOST_REWARD or most_shown > _MOST_SHOWN:
            raise ValueError(
                f"facts: expected rewards up to {_MOST_REWARD} and impressions up to {_MOST_SHOWN}, "
                f"got {most_reward} and {most_shown}"
            )
        columns = self.device.move(
            (facts.item, np.int32),
            (facts.context, np.int32),
            (facts.impressions, np.uint8),
            (facts.reward, np.uint32),
            (facts.context_ptr, np.int32),
            (facts.context_cluster, np.int32),
            (facts.context_x, np.uint16),
        )
        return MovedFacts(facts.item, columns, UNIT * max(UNIT * most_shown, most_reward))

    def add_moved(self, facts: MovedFacts) -> int:
        """Add facts that are on the device; how many sums that left at the largest value."""
        rows, count, capped = self.rows, len(facts.item), 0
        item, context, shown, reward, ptr, cluster, x = facts.columns
        step = max(1, _LAUNCH_LIMIT // max(facts.growth, 1))
        for start in range(0, count, step):
            n = min(step, count - start)
            at = item + np.uint64(4 * start)
            checked = not self._has_room(n * facts.growth)
            self._launch(
                "add_facts", n, rows.item_ptr, rows.edge_cluster, rows.edge_sums, rows.item_sums, at,
                context + np.uint64(4 * start), shown + np.uint64(start), reward + np.uint64(4 * start), ptr,
                cluster, x, np.int64(n),
            )  # fmt: skip
            if checked:
                capped += self._cap(at, n)
        self._changes += count
        if self._few_changed:
            self._changed.append(facts.item.copy())
        else:
            self._changed.clear()  # all are brought back
        return capped

    def read(self, items: Int32) -> tuple[Int64, Int64]:
        """Rows of some items: int64 of shape (edges, 3), item after item, and int64 of shape (len(items), 2)."""
        row_ptr = self._row_ptr(items)
        edge_rows = self.device.empty((int(row_ptr[-1]), 3), np.int64)
        item_rows = self.device.empty((len(items), 2), np.int64)
        self._rows("read_rows", items, row_ptr, edge_rows, item_rows)
        return self.device.read(edge_rows), self.device.read(item_rows)

    def write(self, items: Int32, edge_rows: Int64, item_rows: Int64) -> None:
        """Replace rows of some items, which are distinct; shapes as of `read`."""
        device = self.device
        self._rows("write_rows", items, self._row_ptr(items), device.upload(edge_rows), device.upload(item_rows))
        self._largest = max(self._largest, _most("rows", edge_rows), _most("rows", item_rows))

    def bring_back(self, edge: Int64, item: Int64) -> None:
        """Write the rows that changed since the last time into the host's arrays."""
        if self._changes and not (self._few_changed and self._brought_back(edge, item)):
            self.device.read(self.rows.edge_sums[: len(edge)], out=edge)
            self.device.read(self.rows.item_sums[: len(item)], out=item)
        self._changed, self._changes = [], 0

    def follow(self, graph: Graph, sums: Sums, cleared: Int32) -> bool:
        """Go on with an edit of the graph; what was added before has been brought back.

        Args:
            graph: the edited graph.
            sums: of it, on the host.
            cleared: items of the graph before whose sums are zero now; distinct.

        Returns:
            False if there is no room for the rows that it has more; nothing may be asked of these sums then.
        """
        if not self.rows.fits(graph):
            return False
        self.rows.extend(self.device, self.graph, graph, sums)
        edges = int(self._row_ptr(cleared)[-1])
        try:
            self.write(cleared, np.zeros((edges, 3), np.int64), np.zeros((len(cleared), 2), np.int64))
        except DeviceFull:
            return False
        self.graph = graph
        self._largest = int(LARGEST)  # looked for again when it matters
        return True

    @property
    def _few_changed(self) -> bool:
        return self._changes * _WHOLE_SHARE < self.graph.n_items

    def _brought_back(self, edge: Int64, item: Int64) -> bool:
        """Bring the changed rows alone; False if there is no room to gather them on the device."""
        items: Int32 = np.unique(np.concatenate(self._changed))
        try:
            edge_rows, item_rows = self.read(items)
        except DeviceFull:
            return False
        edge[edges_of(self.graph, items)], item[items] = edge_rows, item_rows
        return True

    def _row_ptr(self, items: Int32) -> Int64:
        sizes = self.graph.item_ptr[items + 1] - self.graph.item_ptr[items]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    def _rows(
        self, kernel: str, items: Int32, row_ptr: Int64, edge_rows: DeviceArray, item_rows: DeviceArray
    ) -> None:
        if len(items):
            rows, (item, ptr) = self.rows, self.device.move((items, np.int32), (row_ptr, np.int64))
            self._launch(
                kernel, len(items), rows.item_ptr, rows.edge_sums, rows.item_sums, item, ptr, np.int64(len(items)),
                edge_rows, item_rows,
            )  # fmt: skip

    def _launch(self, name: str, groups: int, *arguments: object) -> None:
        self.device.launch(name, groups * LANES, *arguments)

    def _has_room(self, growth: int) -> bool:
        """Whether no sum can pass the largest value when it grows by so much; counts the growth."""
        if self._largest + growth > LARGEST:
            self._largest = self._find_largest()
        self._largest = min(self._largest + growth, int(LARGEST) + 1)
        return self._largest <= int(LARGEST)

    def _find_largest(self) -> int:
        # A bound that only grows would reach the end of int64 after some years' worth of facts, the sums do not.
        self.device.fill(self._count, 0)
        for sums, n in (
            (self.rows.edge_sums, 3 * self.graph.n_edges),
            (self.rows.item_sums, 2 * self.graph.n_items),
        ):
            self.device.launch("largest_sum", min(n, _FINDERS), sums, np.int64(n), self._count)
        return int(self.device.read(self._count)[0])

    def _cap(self, items: np.uint64, n: int) -> int:
        self.device.fill(self._count, 0)
        rows = self.rows
        self._launch(
            "cap_sums", n, rows.item_ptr, rows.edge_sums, rows.item_sums, items, np.int64(n), self._count
        )  # fmt: skip
        self._largest = int(LARGEST)
        return int(self.device.read(self._count)[0])


def _most(name: str, column: Int64) -> int:
    if not column.size:
        return 0
    least = int(column.min())
    if least < 0:
        raise ValueError(f"{name}: expected numbers of at least 0, got {least}")
    return int(column.max())

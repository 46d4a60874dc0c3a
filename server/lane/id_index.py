"""The ids of a graph's items as compiled loops find them: hash tables over their bytes.

Invariants: an index belongs to one graph; the tables of the graph before its edits are made once and shared by all
its edits, so that an edit costs what has been edited. Memory: 8 to 16 bytes an item for the slots, 8 for where its
id starts, and the bytes of the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.hashing import UInt64, hash_strings
from bandits.numba_addresses import addresses, row
from server.lane.find_ids import fill_slots

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class IdTable:
    """A hash table over some ids.

    Attributes:
        slots: int32, a power of two of them.
        hashes: uint64 of shape (n, 2).
        pool: uint8, the ids' bytes one after the other.
        starts: int64 of shape (n + 1,).
    """

    slots: npt.NDArray[np.int32]
    hashes: UInt64
    pool: UInt8
    starts: Int64

    @classmethod
    def of(cls, ids: Sequence[str], hashes: UInt64) -> "IdTable":
        """Enter ids; `hashes` are those of `bandits.hashing.hash_strings`."""
        pool, starts = _bytes_of(ids)
        slots = np.full(1 << max(1, (2 * len(ids)).bit_length()), -1, np.int32)
        contiguous = np.ascontiguousarray(hashes)
        fill_slots(contiguous, slots)
        return cls(slots, contiguous, pool, starts)

    def row(self) -> list[int]:
        """As `TABLE` says."""
        slots, *others = addresses(self.slots, self.hashes, self.pool, self.starts)
        return [slots, len(self.slots) - 1, *others]


class IdIndex:
    """Finds item numbers by id, and ids by number, in compiled loops.

    Args:
        graph: the graph.

    Attributes:
        row: int64, as `server.lane.find_ids.INDEX` says.
    """

    def __init__(self, graph: Graph) -> None:
        base = graph.edits.base if graph.edits is not None else graph
        table = _TABLES.get(base)
        if table is None:
            table = _TABLES[base] = IdTable.of(base.item_ids, base.item_hashes)
        numbers = graph.edits.numbers if graph.edits is not None else {}
        later = _bytes_of(graph.item_ids[base.n_items : graph.n_items])
        self._held: list[object] = [table, *later]
        edited = [0, -1, 0, 0, 0, 0]
        if numbers:
            ids = list(numbers)
            edited_table = IdTable.of(ids, hash_strings(ids))
            number = np.fromiter(numbers.values(), np.int32, len(ids))
            self._held += [edited_table, number]
            edited = [*edited_table.row(), *addresses(number)]
        self.row = row([*table.row(), base.n_items, *edited, *addresses(*later)])


_TABLES: "WeakKeyDictionary[Graph, IdTable]" = WeakKeyDictionary()


def share_table(graph: Graph, table: IdTable) -> None:
    """Have the ids of a graph before any edit found by a table that another process has filled."""
    _TABLES[graph] = table


def _bytes_of(ids: Sequence[str]) -> tuple[UInt8, Int64]:
    """The bytes of ids one after the other, and where each starts, the end included."""
    encoded = [item_id.encode() for item_id in ids]
    starts = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=starts[1:])
    return np.frombuffer(b"".join(encoded) or b"\0", np.uint8), starts

"""What the serving processes show of items that are owed first impressions, told to each other in rings.

Invariants: each process writes one ring, whose first word says how much was ever written to it; a reader that finds
itself overtaken passes over what it missed. An entry is the number of an item with what was known of it, and is
heard only by who has the same graph in force, edits aside: under those a number always means the same item.
"""

import zlib

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from server.processes.board import SHOWN_WORDS, Board
from server.processes.segment import fence
from server.processes.shared_graph import base_of

Int64 = npt.NDArray[np.int64]

_HEAD = 8  # words before the entries
ENTRIES = SHOWN_WORDS - _HEAD
_KNOWN_BITS, _NUMBER_BITS = 15, 32
_KNOWN_MASK, _NUMBER_MASK = (1 << _KNOWN_BITS) - 1, (1 << _NUMBER_BITS) - 1
_GRAPH_AT = _KNOWN_BITS + _NUMBER_BITS
_GRAPH_MASK = (1 << 16) - 1
_NOTHING: Int64 = np.empty(0, np.int64)


class SharedShowings:
    """Tells and hears; has the methods of `server.first_impressions.ShownElsewhere`. One thread at a time.

    Args:
        board: of all processes.
        reader: number of this one.
        processes: how many there are.
    """

    def __init__(self, board: Board, reader: int, *, processes: int) -> None:
        self._own = board.shown(reader)
        self._others = [board.shown(number) for number in range(processes) if number != reader]
        self._heard = [int(ring[0]) for ring in self._others]

    def tell(self, graph: Graph, items: Int64, known: Int64) -> None:
        """See `ShownElsewhere`."""
        own, head = self._own, int(self._own[0])
        at = _HEAD + (head + np.arange(len(items))) % ENTRIES
        # Who comes while these are written must know that older ones are being written over.
        own[1] = head + len(items)
        fence()
        own[at] = _tag(graph) << _GRAPH_AT | np.minimum(known, _KNOWN_MASK) << _NUMBER_BITS | items
        fence()
        own[0] = head + len(items)

    def hear(self, graph: Graph) -> tuple[Int64, Int64]:
        """See `ShownElsewhere`."""
        new = []
        for number, ring in enumerate(self._others):
            head, tail = int(ring[0]), self._heard[number]
            if head == tail:
                continue
            self._heard[number] = head
            fence()
            start = max(tail, head - ENTRIES)
            entries = ring[_HEAD + np.arange(start, head) % ENTRIES]
            fence()
            if int(ring[1]) - start <= ENTRIES:  # else some were written over meanwhile
                new.append(entries)
        if not new:
            return _NOTHING, _NOTHING
        entries = np.concatenate(new)
        entries = entries[entries >> _GRAPH_AT == _tag(graph)]
        return entries & _NUMBER_MASK, entries >> _NUMBER_BITS & _KNOWN_MASK


def _tag(graph: Graph) -> int:
    """Of the graph before any edit."""
    return zlib.crc32(base_of(graph).version.encode()) & _GRAPH_MASK

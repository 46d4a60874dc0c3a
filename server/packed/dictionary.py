"""The item ids that a caller of packed calls has sent, as numbers of the graph in force.

Invariants: ids keep their numbers for as long as the dictionary lives; a message that is refused adds none; looking
all ids up again is done once for each graph, not for each message.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from server.errors import Refused, invalid_field
from server.limits import MAX_DICTIONARY_IDS, MAX_ID_BYTES
from server.requests import check_text

Int32 = npt.NDArray[np.int32]


class Dictionary:
    """Ids in the order in which they were added."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._numbers = np.empty(0, np.int32)
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def extended(self, ids: Sequence[str], graph: Graph) -> Int32:
        """Numbers of all ids after some are added, int32, -1 where the graph has no such item.

        Raises:
            Refused: INVALID_ARGUMENT naming the bad id, or that there would be too many; then none is added.
        """
        if ids:
            self._check(ids)
            self._ids.extend(ids)
        if self._graph is not graph:
            self._numbers = graph.lookup(self._ids)
            self._graph = graph
        elif ids:
            self._numbers = np.concatenate([self._numbers, graph.lookup(ids)])
        return self._numbers

    def forget(self, count: int) -> None:
        """Take the ids back that a message added which was refused later on."""
        if count:
            del self._ids[-count:]
            self._numbers = self._numbers[: len(self._ids)]

    def _check(self, ids: Sequence[str]) -> None:
        count = len(self._ids) + len(ids)
        if count > MAX_DICTIONARY_IDS:
            raise invalid_field("queries.dictionary", f"at most {MAX_DICTIONARY_IDS} ids", f"{count} ids")
        # A character has at most four bytes: counting characters settles all but the longest ids.
        sizes = list(map(len, ids))
        if min(sizes) > 0 and 4 * max(sizes) <= MAX_ID_BYTES:
            return
        for at, item_id in enumerate(ids):
            check_text(f"queries.dictionary[{at}]", item_id, smallest=1)


def numbers_of(items: Int32, dictionary: Int32, field: str = "queries.items") -> Int32:
    """Numbers of the graph of candidates that are numbers within a dictionary.

    Raises:
        Refused: INVALID_ARGUMENT naming the first that is not.
    """
    check_range(items, len(dictionary), "number within the dictionary", field)
    numbers: Int32 = dictionary[items]
    return numbers


def check_range(items: Int32, end: int, what: str, field: str = "queries.items") -> None:
    """Refuse candidates outside 0 <= item < end.

    Raises:
        Refused: INVALID_ARGUMENT naming the first.
    """
    if len(items) and (items.min() < 0 or items.max() >= end):
        at = int(np.argmax((items < 0) | (items >= end)))
        raise _outside(f"{field}[{at}]", f"a {what}, 0 <= item < {end}", int(items[at]))


def _outside(field: str, expected: str, got: int) -> Refused:
    return invalid_field(field, expected, got)

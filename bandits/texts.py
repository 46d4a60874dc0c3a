"""Strings as columns: their UTF-8 bytes in one buffer, which compiled loops read; none is a Python object.

Invariants: the buffer is not changed as long as texts point into it; every piece is well-formed UTF-8.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Texts(Sequence[str]):
    """Immutable strings.

    Args:
        data: uint8, the buffer.
        at: int64 of shape (n,), where each begins.
        size: int64 of shape (n,), bytes of each.

    Examples:
        >>> texts = Texts.of(["a", "bc", "a"])
        >>> texts[1], list(texts[1:]), len(texts), texts == ["a", "bc", "a"]
        ('bc', ['bc', 'a'], 3, True)
    """

    __slots__ = ("at", "data", "size")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: UInt8, at: Int64, size: Int64) -> None:
        self.data, self.at, self.size = data, at, size

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Texts":
        """Texts of any strings; themselves if they are some already."""
        if isinstance(strings, Texts):
            return strings
        encoded = [string.encode() for string in strings]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls.packed(np.frombuffer(bytearray(b"".join(encoded)), np.uint8), sizes)

    @classmethod
    def packed(cls, data: UInt8, sizes: Int64) -> "Texts":
        """Texts one after the other."""
        return cls(data, np.cumsum(sizes) - sizes, sizes)

    @classmethod
    def concatenated(cls, parts: "Sequence[Texts]") -> "Texts":
        """The texts of one part or more, in that order; a copy, unless all but one part are empty."""
        filled = [part for part in parts if len(part)] or [parts[0]]
        if len(filled) == 1:
            return filled[0]
        sizes = np.concatenate([part.size for part in filled])
        return cls.packed(np.concatenate([part.to_bytes() for part in filled]), sizes)

    def take(self, numbers: npt.NDArray[Any]) -> "Texts":
        """Texts by number, or by a mask."""
        return Texts(self.data, self.at[numbers], self.size[numbers])

    def to_bytes(self) -> UInt8:
        """All texts one after the other."""
        out = np.empty(int(self.size.sum()), np.uint8)
        if len(out):
            from bandits.numba_texts import copy_texts

            copy_texts(self.data, self.at, self.size, out)
        return out

    def distinct(self) -> tuple["Texts", Int32]:
        """Distinct texts in the order in which they come first, and the number of each text among them, int32."""
        return distinct_of([self])

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return self.take(index)  # type: ignore[arg-type]
        at = int(self.at[index])
        return self.data[at : at + int(self.size[index])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        if not len(self):
            return
        low, high = int(self.at.min()), int((self.at + self.size).max())
        data = self.data[low:high].tobytes()
        for start, end in zip((self.at - low).tolist(), (self.at + self.size - low).tolist(), strict=True):
            yield data[start:end].decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Texts.of({list(self)!r})"


def distinct_of(parts: Sequence[Texts]) -> tuple[Texts, Int32]:
    """Distinct texts of all parts, one after the other, in the order in which they come first.

    Returns:
        The distinct texts, and the number of each text among them, int32.
    """
    filled = [part for part in parts if len(part)]
    if not filled:
        return NO_TEXTS, np.empty(0, np.int32)
    from bandits.numba_texts import number_texts

    head, tail = filled[0], Texts.concatenated(filled[1:]) if len(filled) > 1 else NO_TEXTS
    total = len(head) + len(tail)
    number, first = np.empty(total, np.int32), np.empty(total, np.int64)
    places = (head.data, head.at, head.size, tail.data, tail.at, tail.size)
    count = number_texts(*places, process_seed(), smallest_table(total), number, first)
    ahead = int(np.searchsorted(first[:count], len(head)))
    distinct = Texts.concatenated([head.take(first[:ahead]), tail.take(first[ahead:count] - len(head))])
    return distinct, number


class Pairs(Sequence[tuple[str, str]]):
    """Pairs of a request id and an item id.

    Args:
        request: the first of each pair.
        item: the second.
        hashes: of both, once somebody has made them; of no meaning outside of this process.

    Examples:
        >>> pairs = Pairs.of([("r", "i"), ("r", "j")])
        >>> pairs[1], list(pairs.take(np.array([0])))
        (('r', 'j'), [('r', 'i')])
    """

    __slots__ = ("hashes", "item", "request")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, request: Texts, item: Texts, hashes: "PairHashes | None" = None) -> None:
        self.request, self.item, self.hashes = request, item, hashes

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Pairs":
        """Of any pairs; themselves if they are some already."""
        if isinstance(pairs, Pairs):
            return pairs
        return cls(Texts.of([pair[0] for pair in pairs]), Texts.of([pair[1] for pair in pairs]))

    @classmethod
    def concatenated(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """The pairs of one part or more, in that order."""
        requests, items = [part.request for part in parts], [part.item for part in parts]
        return cls(Texts.concatenated(requests), Texts.concatenated(items))

    def take(self, numbers: npt.NDArray[Any]) -> "Pairs":
        """Pairs by number, or by a mask."""
        hashes = None if self.hashes is None else PairHashes(*(each[numbers] for each in self.hashes))
        return Pairs(self.request.take(numbers), self.item.take(numbers), hashes)

    @property
    def columns(self) -> "PairColumns":
        """As compiled loops take them."""
        request, item = self.request, self.item
        return PairColumns(request.data, request.at, request.size, item.data, item.at, item.size)

    def __len__(self) -> int:
        return len(self.request)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "tuple[str, str] | Pairs":
        if isinstance(index, slice):
            return Pairs(self.request[index], self.item[index])
        return self.request[index], self.item[index]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.request, self.item, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Pairs.of({list(self)!r})"


class PairHashes(NamedTuple):
    """Hashes of the requests and of the items of `Pairs`, uint64 of shape (n,) each."""

    request: UInt64
    item: UInt64


class PairColumns(NamedTuple):
    """`Pairs` as arrays: buffer, place and size of the requests, then of the items."""

    request: UInt8
    request_at: Int64
    request_size: Int64
    item: UInt8
    item_at: Int64
    item_size: Int64


def process_seed() -> Any:
    """Python's own seed of this process, uint64: nobody outside knows which texts share a place in a table."""
    return np.uint64(hash("texts") & 0xFFFFFFFFFFFFFFFF)


def smallest_table(count: int) -> Int32:
    """Slots for so many texts, at most half of which are then taken; a power of two of int32 zeros."""
    return np.zeros(1 << (2 * max(count, 1) - 1).bit_length(), np.int32)


NO_TEXTS = Texts(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
NO_PAIRS = Pairs(NO_TEXTS, NO_TEXTS)

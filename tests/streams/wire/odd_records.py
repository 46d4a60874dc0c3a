"""Random source records: mostly valid events in every form that protobuf allows, and bytes gone wrong.

Invariant: everything is drawn from the generator that is passed in.
"""

import random
import struct
from dataclasses import dataclass, field

NOW_MS = 1_700_000_000_000
IDS = ("a", "b", "item-17", "é", "漢字", "😀", "x" * 255, "x" * 257, "é" * 128, "é" * 129, "", "nul\0", '"\\\n')
SURFACES = ("home", "é", "", "search", "x" * 64)
TIMES = (0, 1, NOW_MS, NOW_MS - 90_000_000, NOW_MS + 59_000, NOW_MS + 61_000, 2**53, 2**53 + 1, -1, 2**63 - 1)
_WEIGHTS = (1.0, 0.5, 0.1, 1e-9, 1e-40, 0.0, -0.5, 1.5, float("nan"), float("inf"))
_NUMBERS = (0.0, 0.25, 1.0, 1e-300, -0.0, 1.5, -1.0, float("nan"), float("inf"), 7.25)
_KINDS = ("", "click", "dwell", "like", "é", "nope")


@dataclass
class Stored:
    """A record as the client hands it over."""

    value: bytes | None
    offset: int = 5
    timestamp: int = NOW_MS
    headers: list = field(default_factory=list)
    timestamp_type: int = 1
    key: bytes | None = None


def pick(rng: random.Random, usual: object, odd: tuple, oddness: float) -> object:
    """The usual value or, with that probability, one of the odd ones."""
    return rng.choice(odd) if rng.random() < oddness else usual


def _varint(number: int, rng: random.Random, oddness: float) -> bytes:
    """A number, now and then in more bytes than it needs."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    if rng.random() < oddness / 4:
        for _ in range(rng.randint(1, 10 - len(out)) if len(out) < 10 else 0):
            out[-1] |= 0x80
            out.append(0)
    return bytes(out)


class Writer:
    """Writes fields of a message in any order, scalars more than once, repeated numbers packed or not."""

    def __init__(self, rng: random.Random, oddness: float) -> None:
        self._rng, self._oddness = rng, oddness
        self._fields: list[bytes] = []

    def _odd(self) -> bool:
        return self._rng.random() < self._oddness

    def number(self, tag: int, value: int) -> bytes:
        return _varint(tag << 3, self._rng, self._oddness / 4) + _varint(value, self._rng, self._oddness)

    def add(self, *encoded: bytes) -> None:
        self._fields += encoded

    def integer(self, tag: int, value: int) -> None:
        if self._odd():
            self.add(self.number(tag, self._rng.randint(0, 2**40)))
        self.add(self.number(tag, value))

    def double(self, tag: int, value: float) -> None:
        if self._odd():
            self.add(bytes([tag << 3 | 1]) + struct.pack("<d", self._rng.random() * 3))
        self.add(bytes([tag << 3 | 1]) + struct.pack("<d", value))

    def bytes_(self, tag: int, value: bytes) -> None:
        self.add(bytes([tag << 3 | 2]) + _varint(len(value), self._rng, self._oddness) + value)

    def text(self, tag: int, value: str) -> None:
        if self._odd():
            self.bytes_(tag, self._rng.choice(IDS).encode())
        self.bytes_(tag, value.encode() + (b"\xff" if self._rng.random() < self._oddness / 8 else b""))

    def repeated(self, tag: int, wire_type: int, values: list[bytes]) -> None:
        while values:
            size = self._rng.randint(1, len(values)) if self._odd() else len(values)
            if self._odd():
                self.add(*(bytes([tag << 3 | wire_type]) + value for value in values[:size]))
            else:
                self.bytes_(tag, b"".join(values[:size]))
            values = values[size:]

    def done(self) -> bytes:
        if self._odd():
            unknown = (b"\x78\x05", b"\x7a\x02ab", b"\x7b\x7c", b"\xc8\x01\x01", b"\x05abcd", b"\x09abcdefgh")
            self.add(self._rng.choice(unknown))
        if self._odd():  # repeated fields stay in order among themselves often enough
            self._rng.shuffle(self._fields)
        return b"".join(self._fields)


def context(rng: random.Random, oddness: float) -> bytes:
    """ClusterWeights."""
    size = int(pick(rng, rng.randint(1, 12), (0, 64, 65), oddness / 4))
    ids = rng.sample(range(1000), size)
    ids = sorted(ids) if rng.random() < 0.5 else ids
    ids = [int(pick(rng, i, (0, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40), oddness / 16)) for i in ids]
    weights = [float(pick(rng, rng.random() + 1e-7, _WEIGHTS, oddness / 16)) for _ in ids]
    weights = [min(weight, 3.0e38) if weight == weight else weight for weight in weights]
    if rng.random() < oddness / 8:
        weights = weights[:-1]
    writer = Writer(rng, oddness / 4)
    encoded = [struct.pack("<f", weight) for weight in weights]
    parts = [(1, 0, [_varint(i, rng, oddness / 8) for i in ids]), (2, 5, encoded)]
    for part in parts if rng.random() < 0.8 else parts[::-1]:
        writer.repeated(*part)
    return writer.done()


def item(rng: random.Random, position: int, oddness: float) -> bytes:
    """ShownItem."""
    writer = Writer(rng, oddness / 4)
    writer.text(1, str(pick(rng, f"item-{rng.randint(0, 300)}-{position}", IDS, oddness / 4)))
    if position or rng.random() < 0.2:
        odd = (4_999, 5_000, 2**32 - 1, 2**32, 2**32 + 1, 2**64 - 1)
        writer.integer(2, int(pick(rng, position, odd, oddness / 8)))
    if rng.random() < 0.7:
        writer.double(3, float(pick(rng, rng.random(), _NUMBERS, oddness / 8)))
    return writer.done()


def impression(rng: random.Random, oddness: float) -> bytes:
    """Impression; with oddness 0 one that every rule lets pass and that is written in the usual way."""
    writer = Writer(rng, oddness)
    writer.text(1, str(pick(rng, f"request-{rng.randint(0, 10**6)}", IDS, oddness / 2)))
    if rng.random() < 0.7:
        writer.integer(2, int(pick(rng, NOW_MS - rng.randint(0, 10**6), TIMES, oddness)))
    for _ in range(int(pick(rng, 1, (0, 2), oddness / 4))):
        writer.bytes_(3, context(rng, oddness))
    for position in range(int(pick(rng, rng.randint(1, 6), (0, 40), oddness / 4))):
        writer.bytes_(4, item(rng, position, oddness))
    for tag in (5, 7, 8):
        if rng.random() < 0.3:
            writer.text(tag, str(pick(rng, "some", IDS, oddness)))
    if rng.random() < 0.6:
        writer.text(9, str(pick(rng, rng.choice(SURFACES), (*IDS, *SURFACES), oddness / 2)))
    if rng.random() < 0.3:
        writer.integer(6, int(pick(rng, rng.randint(0, 6), (7, 2**31, 2**32 + 1, -1), oddness)))
    return writer.done()


def click(rng: random.Random, oddness: float) -> bytes:
    """Click; with oddness 0 as above."""
    writer = Writer(rng, oddness)
    writer.text(1, str(pick(rng, f"request-{rng.randint(0, 10**6)}", IDS, oddness / 2)))
    writer.text(2, str(pick(rng, f"item-{rng.randint(0, 300)}", IDS, oddness / 2)))
    if rng.random() < 0.5:
        writer.double(3, float(pick(rng, rng.random(), _NUMBERS, oddness)))
    if rng.random() < 0.7:
        writer.text(4, str(pick(rng, rng.choice(_KINDS[:3]), _KINDS, oddness)))
    if rng.random() < 0.7:
        writer.integer(5, int(pick(rng, NOW_MS - rng.randint(0, 10**6), TIMES, oddness)))
    if rng.random() < 0.3:
        writer.text(6, str(pick(rng, "event", IDS, oddness)))
    return writer.done()


def batch(rng: random.Random, event: object, oddness: float) -> bytes:
    """ImpressionBatch or ClickBatch of such events."""
    writer = Writer(rng, oddness / 8)
    for _ in range(int(pick(rng, rng.randint(1, 4), (0, 12), oddness / 4))):
        writer.bytes_(1, event(rng, oddness / 4))
    return writer.done()


def mutated(value: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three of them flipped, taken away, put in, or the end cut off."""
    out = bytearray(value)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(5)
        if what == 0:
            del out[at:]
        elif what == 1:
            del out[at : at + 1]
        elif what == 2:
            out[at:at] = bytes([rng.choice((0, 1, 0x0A, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        elif at < len(out):
            out[at] = rng.randrange(256) if what == 3 else out[at] ^ 1 << rng.randrange(8)
    return bytes(out)

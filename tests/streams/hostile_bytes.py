"""Every way to cut a record short and to flip one of its bytes."""

from collections.abc import Iterator


def damaged(record: bytes) -> Iterator[bytes]:
    """All proper prefixes, all records with one byte flipped in some bits, and records with bytes after the end."""
    yield from (record[:length] for length in range(len(record)))
    for at in range(len(record)):
        for mask in (0x01, 0x80, 0xFF):
            yield record[:at] + bytes([record[at] ^ mask]) + record[at + 1 :]
    yield from (record + tail for tail in (b"\x00", b"\xff" * 3, record))

"""Rows on the parameters topic, and the marks between them.

A partition holds, in order of writing: rows (key: item id), marks (key 0xFF: what all rows include together) and
fences (key 0xFF and an epoch: from here on a new owner writes). A mark comes after the rows that it speaks of.
"""

from freshet.v1 import parameters_pb2
from streams.store import number_bytes

MARK_KEY = b"\xff"


def fence_key(epoch: int) -> bytes:
    """Key of the fence of an owner."""
    return MARK_KEY + number_bytes(epoch)


def is_fence(key: bytes) -> bool:
    """True for the key of a fence."""
    return len(key) > 1 and key[:1] == MARK_KEY


def is_mark(key: bytes) -> bool:
    """True for the key of the mark."""
    return key == MARK_KEY


def epoch_of(row: bytes) -> int:
    """The epoch of a row."""
    message = parameters_pb2.ItemParametersColumns.FromString(row)
    return message.epoch

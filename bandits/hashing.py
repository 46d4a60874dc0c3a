"""Vectorised 64-bit hashing of strings and integers, equal on every machine.

Not cryptographic. Used for state hashes and for assigning items to partitions, never for identity.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]

# The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection with full avalanche.
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LANES = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))


def mix(values: UInt64) -> UInt64:
    """SplitMix64 finaliser of each element, uint64 of the same shape."""
    z = values ^ (values >> np.uint64(30))
    z = z * _MULTIPLIER_1
    z = z ^ (z >> np.uint64(27))
    z = z * _MULTIPLIER_2
    mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed


def hash_strings(strings: Sequence[str]) -> UInt64:
    """Two independent hashes of each string's UTF-8 bytes, uint64 of shape (len(strings), 2)."""
    encoded = [string.encode() for string in strings]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    # Sorted by size, so that a block is padded to its own longest string and not to the longest of all.
    order = np.argsort(sizes, kind="stable")
    result = np.empty((len(encoded), 2), np.uint64)
    for start in range(0, len(encoded), _BLOCK):
        chosen = order[start : start + _BLOCK]
        result[chosen] = _hash_block([encoded[i] for i in chosen], sizes[chosen])
    return result


_BLOCK = 4096


def _hash_block(encoded: list[bytes], sizes: npt.NDArray[np.int64]) -> UInt64:
    words = int(sizes[-1]) // 8 + 1
    padded = np.zeros((len(encoded), words * 8), np.uint8)
    flat = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum(sizes)
    row = np.repeat(np.arange(len(encoded)), sizes)
    padded[row, np.arange(len(flat)) - np.repeat(ends - sizes, sizes)] = flat
    columns = padded.view("<u8").astype(np.uint64)
    last = sizes // 8
    result = np.empty((len(encoded), 2), np.uint64)
    for lane, key in enumerate(LANES):
        state = mix(sizes.astype(np.uint64) ^ key)
        for word in range(words):
            # A string stops at its own last word: the hash must not depend on its neighbours' sizes.
            state = np.where(word <= last, mix(state + GOLDEN ^ columns[:, word]), state)
        result[:, lane] = state
    return result

"""Counter-based random draws: a pure function of (seed, stream, key).

Invariants: the draw of a key does not depend on which other keys are drawn, on their order, or on the thread; two
streams of one seed are independent; a uniform draw is never 0 or 1.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bandits.hashing import GOLDEN, UInt64, mix

Float64 = npt.NDArray[np.float64]

# Streams: what a draw is for. A number is never reused for something else, or replies stop being reproducible.
TIES = 1
TOP_M = 2
EXPLORE_COIN = 3
EXPLORE_ORDER = 4
THOMPSON = 5
BETA = 6
REDRAWS = 7
COARSE_REDRAWS = 8
OPTIMISM = 9
OPTIMISM_REDRAWS = 10
RESERVED_SLOTS = 11

SEED_LIMIT = 1 << 64
_MASK = SEED_LIMIT - 1
_GOLDEN = 0x9E3779B97F4A7C15


def bits(seed: int, stream: int, keys: UInt64) -> UInt64:
    """64 random bits for each key, uint64 of the shape of `keys`; distinct keys get distinct bits.

    Args:
        seed: 0 <= seed < 2^64.
        stream: one of this module's streams.
        keys: uint64, for example item hashes.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed: expected 0 <= seed < 2^64, got {seed}")
    offset = _mix_int(_mix_int(seed + _GOLDEN) + stream * _GOLDEN)
    # A seed-dependent odd factor, so that the difference between two keys is not the same under every seed.
    factor = _mix_int(offset + _GOLDEN) | 1
    return mix(keys * np.uint64(factor) + np.uint64(offset))


def uniforms(seed: int, stream: int, keys: UInt64) -> Float64:
    """A uniform draw of the open interval (0, 1) for each key, float64 of the shape of `keys`.

    Examples:
        >>> keys = np.array([3, 1, 2], np.uint64)
        >>> bool((uniforms(7, TIES, keys)[::-1] == uniforms(7, TIES, keys[::-1])).all())
        True
    """
    # 52 bits and a half: with 53 the largest value would round to 1.
    high = (bits(seed, stream, keys) >> np.uint64(12)).astype(np.float64)
    drawn: Float64 = (high + 0.5) * 2.0**-52
    return drawn


def normals(seed: int, stream: int, keys: UInt64) -> Float64:
    """A standard normal draw for each key, by inversion, float64 of the shape of `keys`; always finite."""
    drawn: Float64 = ndtri(uniforms(seed, stream, keys))
    return drawn


# Quantiles of the normal distribution in the middle of 65,536 equal shares; the largest is 4.3.
# Behind them those of the root of an exponential draw; the largest is 3.4.
COARSE = 1 << 16
_MIDDLE = (np.arange(COARSE) + 0.5) / COARSE
COARSE_QUANTILES: Float64 = np.concatenate([ndtri(_MIDDLE), np.sqrt(-np.log1p(-_MIDDLE))])
COARSE_QUANTILES.setflags(write=False)
COARSE_NORMALS, COARSE_ROOTS = COARSE_QUANTILES[:COARSE], COARSE_QUANTILES[COARSE:]


def coarse_normals(seed: int, stream: int, keys: UInt64, count: int) -> Float64:
    """`count` normal draws for each key, of 16 bits each: for averages over draws, at a fifth of the cost.

    Args:
        seed: 0 <= seed < 2^64.
        stream: one of this module's streams.
        keys: uint64 of shape (n,).
        count: 0 or more; the first draws do not depend on it.

    Returns:
        float64 of shape (count, n).
    """
    drawn: Float64 = COARSE_NORMALS[coarse_bits(seed, stream, keys, count)]
    return drawn


def coarse_bits(seed: int, stream: int, keys: UInt64, count: int) -> UInt64:
    """`count` draws of 16 bits for each key, uint64 of shape (count, n); arguments as of `coarse_normals`."""
    block = np.arange(1, (count + 3) // 4 + 1, dtype=np.uint64)[:, None] * GOLDEN
    words = mix(bits(seed, stream, keys) + block)
    quarters = (words[:, None, :] >> _QUARTERS[:, None]) & np.uint64(0xFFFF)
    return quarters.reshape(-1, len(keys))[:count]


_QUARTERS = np.arange(0, 64, 16, dtype=np.uint64)


def _mix_int(value: int) -> int:
    """`bandits.hashing.mix` of one number, in Python integers: ten times cheaper than an array of one."""
    z = value & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)

"""Hashing of strings and integers: the same everywhere, of every string alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bandits.hashing
from bandits.hashing import hash_strings, mix

MASK = 2**64 - 1


def mix_by_hand(value: int) -> int:
    """The SplitMix64 finaliser in Python integers."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def hash_by_hand(string: str, key: int) -> int:
    data = string.encode()
    state = mix_by_hand(len(data) ^ key)
    for start in range(0, len(data) // 8 * 8 + 1, 8):
        word = int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little")
        state = mix_by_hand((state + 0x9E3779B97F4A7C15 & MASK) ^ word)
    return state


def test_hashes_are_pinned() -> None:
    """A changed hash would move every item to another partition and change every stored state hash."""
    assert hash_strings(["", "a", "item-1", "12345678", "été", "x" * 100]).tolist() == [
        [0x74D28E025CEAAC29, 0x0FEC917D2BA47B1D],
        [0x409571F3B1E4CBC4, 0x628D2DA19DFEB655],
        [0x09025DFF99959B21, 0x5341B5F336339B62],
        [0x8B21354F67B09879, 0xF192DD83634200EE],
        [0x56880D1A75F42195, 0x7263C522D4DD40DC],
        [0x7F0E14F4F505AE10, 0x3084113BDC8D3EAD],
    ]


def test_mix_is_the_published_one() -> None:
    """The first outputs of SplitMix64 from seed 0, as published with it and used by Java and xoshiro."""
    state = np.arange(1, 4, dtype=np.uint64) * bandits.hashing.GOLDEN
    assert [f"{value:016x}" for value in mix(state).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@given(strings=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=30))
@settings(max_examples=100, deadline=None)
def test_hashes_are_those_of_twenty_plain_lines(strings: list[str]) -> None:
    """The vectorised hash equals the plain one, for every string whatever its neighbours' sizes."""
    keys = [int(key) for key in bandits.hashing.LANES]
    expected = [[hash_by_hand(string, key) for key in keys] for string in strings]
    assert hash_strings(strings).tolist() == expected


def test_a_hash_depends_on_its_string_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on order, neighbours, nor the block it falls into, or else sharding would change the state hash."""
    rng = np.random.default_rng(2)
    strings = ["z" * int(size) + str(number) for number, size in enumerate(rng.integers(0, 50, size=300))]
    whole = hash_strings(strings)
    order = rng.permutation(300)
    assert np.array_equal(hash_strings([strings[i] for i in order]), whole[order])
    assert np.array_equal(np.concatenate([hash_strings([string]) for string in strings]), whole)
    for block in (1, 7, 299):
        monkeypatch.setattr(bandits.hashing, "_BLOCK", block)
        assert np.array_equal(hash_strings(strings), whole)


def test_every_bit_of_a_string_moves_half_of_the_hash() -> None:
    """Avalanche: one flipped bit changes each of the 128 output bits about half of the time."""
    rng = np.random.default_rng(3)
    letters = rng.integers(0, 64, size=(2000, 12), dtype=np.uint8) + 32
    flipped = letters.copy()
    flipped[np.arange(2000), rng.integers(0, 12, size=2000)] ^= (1 << rng.integers(0, 5, size=2000)).astype(
        np.uint8
    )
    before, after = (hash_strings([bytes(row).decode("ascii") for row in rows]) for rows in (letters, flipped))
    bits = np.unpackbits((before ^ after).view(np.uint8), axis=1)
    assert bits.shape == (2000, 128)
    # Five standard deviations of a fair coin thrown 2000 times, and 256000 times.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 2000**0.5
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / 256_000**0.5


def test_no_two_of_many_ids_collide() -> None:
    """200,000 ids of the usual kinds, trailing zero bytes among them, have distinct hashes in either lane."""
    ids = [f"video_{number}" for number in range(100_000)]
    ids += [str(number) for number in range(90_000)]
    ids += ["\0" * size for size in range(300)] + ["\0" * size + "a" for size in range(300)]
    ids += [f"{number:016x}" for number in range(0, 9_400 * 2**40, 2**40)]
    hashes = hash_strings(ids)
    assert len(ids) == 200_000
    for lane in range(2):
        assert len(np.unique(hashes[:, lane])) == 200_000
    assert not (hashes[:, 0] == hashes[:, 1]).any()


def test_partitions_are_filled_evenly() -> None:
    """Consecutive ids spread over partitions as chance would have it."""
    hashes = hash_strings([f"item-{number}" for number in range(64_000)])
    for lane in range(2):
        counts = np.bincount((hashes[:, lane] % np.uint64(64)).astype(np.int64), minlength=64)
        assert np.abs(counts - 1000).max() < 6 * 1000**0.5


def test_nothing_hashes_to_nothing() -> None:
    """An empty catalogue has an array of no hashes."""
    assert hash_strings([]).shape == (0, 2)
    assert mix(np.empty(0, np.uint64)).shape == (0,)


def test_ids_that_are_no_unicode_are_refused() -> None:
    """A lone surrogate has no UTF-8 and therefore no hash."""
    with pytest.raises(UnicodeEncodeError):
        hash_strings(["fine", "\udc80"])

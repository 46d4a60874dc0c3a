"""The filter of hashes against a counter: nothing that is there is missed, little else is looked at."""

from collections import Counter

import numpy as np
import pytest

from bandits.hash_filter import HashFilter


@pytest.mark.parametrize("seed", range(4))
def test_no_hash_that_is_there_is_missed(seed: int) -> None:
    """Hashes come and go, some of them more than once, and share their low bits."""
    rng = np.random.default_rng(seed)
    universe = rng.integers(0, 1 << 63, 300).astype(np.uint64) << np.uint64(rng.choice((0, 10)))
    some, there = HashFilter(universe[:5]), Counter(universe[:5].tolist())
    for _ in range(50):
        coming = rng.choice(universe, rng.integers(0, 20))
        some.add(coming)
        there.update(coming.tolist())
        going = rng.permutation(np.array(list(there.elements()), np.uint64))[: rng.integers(0, 20)]
        some.remove(going)
        there.subtract(going.tolist())
        held = np.array(sorted(there.elements()), np.uint64)
        assert some.may_have(held).all()
    some.remove(held)
    assert not some.may_have(universe).any()


def test_few_others_are_taken_for_one_that_is_there() -> None:
    """As many as it fits: one in sixteen of the others would be looked at in vain."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 63, 20_000).astype(np.uint64)
    some = HashFilter(hashes[:10_000])
    assert some.fits(10_000)
    assert not HashFilter(hashes[:100]).fits(10_000)
    assert some.may_have(hashes[10_000:]).mean() < 1 / 12

"""Slots that are reserved for draws from pools: what is drawn, how often, and how exactly that is said."""

import itertools

import numpy as np
import pytest

from bandits.reserved_slots import Pools, draw_slate, pick_reserved, placement_reserved
from bandits.slate_propensity import EXPLORED_SLOTS
from bandits.slates import pick

KEYS = np.arange(76, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
SCORE = np.array([0.9, 0.8, 0.8, 0.5, 0.4, 0.4, 0.4, 0.1])
OF = np.array([0, 1, 2, 1, 0, 1, 2, 2], np.int8)


def frequencies(score, pools, *, size, top_m, draws):
    """How often each item was at each position, and how often it should have been."""
    n = len(score)
    seen, said = np.zeros((n, size)), np.zeros((n, size))
    slots = np.arange(size)
    for seed in range(draws):
        chosen, _ = draw_slate(score, keys=KEYS[:n], slate_size=size, top_m=top_m, pools=pools, seed=seed)
        if not said[chosen, slots].all():
            said[chosen, slots] = placement_reserved(score[None], chosen, top_m=top_m, pools=pools)[0]
        seen[chosen, slots] += 1
    return seen / draws, said


@pytest.mark.parametrize("top_m", [1, 3])
@pytest.mark.parametrize("shares", [(0.3, 0.0), (0.25, 0.4), (0.0, 1.0), (0.6, 0.4)])
@pytest.mark.parametrize("score", [SCORE, np.zeros(8), np.r_[np.full(3, np.inf), SCORE[3:]]])
def test_propensities_are_frequencies(score, shares, top_m):
    """An item lands at a position as often as is said, with ties, pools and permuted ranks."""
    pools = Pools(OF, shares)
    draws = 1_500
    seen, said = frequencies(score, pools, size=4, top_m=top_m, draws=draws)
    assert np.abs(seen - said).max() < 5 * np.sqrt(0.25 / draws)


@pytest.mark.parametrize("top_m", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("shares", [(0.2, 0.0), (0.3, 0.5), (0.5, 0.5), (1.0, 0.0), (0.05, 0.02)])
def test_probabilities_of_a_position_sum_to_one(shares, size, top_m):
    """Somebody is at every position; nobody's chance is left out or counted twice."""
    rng = np.random.default_rng(5)
    scores = np.round(rng.random((6, 8)), 1)
    pools = Pools(OF, shares)
    total = np.zeros((6, size))
    for item, position in itertools.product(range(8), range(size)):
        others = [other for other in range(8) if other != item]
        chosen = np.array([*others[:position], item, *others[position:]])[:size]
        total[:, position] += placement_reserved(scores, chosen, top_m=top_m, pools=pools)[:, position]
    assert np.allclose(total, 1.0, rtol=1e-12)


def test_a_pool_gets_its_share_and_no_more():
    """A share of 0.15 of ten slots is one slot or two; each member gets as much as any other."""
    n, size = 40, 10
    of = np.zeros(n, np.int8)
    of[25:35] = 1
    keys = np.arange(n, dtype=np.uint64)
    pools = Pools(of, (0.15, 0.0))
    counts = np.zeros(n)
    drawn_slots = []
    for seed in range(2_000):
        slate = pick_reserved(-np.arange(float(n)), keys=keys, slate_size=size, top_m=1, pools=pools, seed=seed)
        assert len(set(slate.chosen.tolist())) == size
        assert (of[slate.chosen] == slate.drawn).all()
        assert slate.propensity[slate.drawn == 1] == pytest.approx(0.15 / 10)
        drawn_slots.append(np.count_nonzero(slate.drawn))
        counts[slate.chosen[slate.drawn == 1]] += 1
    assert set(drawn_slots) == {1, 2}
    assert np.mean(drawn_slots) == pytest.approx(1.5, abs=0.05)
    assert counts[of == 0].sum() == 0
    assert counts[of == 1] == pytest.approx(300, abs=5 * np.sqrt(300))


def test_nobody_to_draw_is_a_slate_by_rank():
    """The same slate and propensities as the picker without exploration."""
    pools = Pools(np.zeros(8, np.int8), (0.5, 0.5))
    for seed in range(50):
        slate = pick_reserved(SCORE, keys=KEYS[:8], slate_size=5, top_m=2, pools=pools, seed=seed)
        plain = pick(SCORE, keys=KEYS[:8], slate_size=5, top_m=2, seed=seed)
        assert (slate.chosen == plain.chosen).all()
        assert slate.propensity == pytest.approx(plain.propensity, rel=1e-12)
        assert not slate.drawn.any()


def test_a_pool_smaller_than_its_share_gives_what_it_has():
    """The slots that it cannot fill are filled by rank."""
    pools = Pools(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.int8), (1.0, 0.0))
    seen, said = frequencies(SCORE, pools, size=4, top_m=1, draws=3_000)
    assert seen[7].sum() == 1
    assert np.abs(seen - said).max() < 5 * np.sqrt(0.25 / 3_000)


def test_a_long_slate_explores_its_first_slots_only():
    """Below them ranks decide, and propensities are exact there too."""
    n, size, draws = len(KEYS), EXPLORED_SLOTS + 6, 2_000
    of = np.zeros(n, np.int8)
    of[::5] = 1
    pools = Pools(of, (0.03, 0.0))
    score = -np.arange(float(n))
    for seed in range(20):
        slate = pick_reserved(score, keys=KEYS, slate_size=size, top_m=1, pools=pools, seed=seed)
        assert not slate.drawn[EXPLORED_SLOTS:].any()
    seen, said = frequencies(score, pools, size=size, top_m=1, draws=draws)
    assert np.abs(seen - said).max() < 6 * np.sqrt(0.25 / draws)


def test_the_order_of_candidates_does_not_matter():
    """Draws are keyed by item."""
    turned = np.random.default_rng(1).permutation(8)
    pools = Pools(OF, (0.3, 0.3))
    for seed in range(30):
        one = pick_reserved(SCORE, keys=KEYS[:8], slate_size=4, top_m=2, pools=pools, seed=seed)
        other = pick_reserved(
            SCORE[turned],
            keys=KEYS[:8][turned],
            slate_size=4,
            top_m=2,
            pools=Pools(OF[turned], (0.3, 0.3)),
            seed=seed,
        )
        assert (turned[other.chosen] == one.chosen).all()
        assert other.propensity == pytest.approx(one.propensity, rel=1e-12)

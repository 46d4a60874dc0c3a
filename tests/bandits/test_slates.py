"""Slates against their invariants, and propensities against enumeration and frequency."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, groupby, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandits import slate_propensity, slates
from bandits.slate_propensity import position_probabilities, tie_groups
from bandits.slates import Slate, estimate_propensity, pick

DRAWS = 100_000


def keys_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 2**63, n).astype(np.uint64)


def exact(score: np.ndarray, slate_size: int, top_m: int, explore_share: float) -> np.ndarray:
    """Exact probability of every item (row) at every position (column)."""
    n = len(score)
    order = np.argsort(-score, kind="stable")
    first, end = tie_groups(score[order])
    rank = np.argsort(order)
    table = position_probabilities(
        np.repeat(first[rank], slate_size),
        np.repeat(end[rank], slate_size),
        np.tile(np.arange(slate_size), n),
        n=n,
        slate_size=slate_size,
        top_m=min(top_m, n),
        explore_share=explore_share,
    )
    return table.reshape(n, slate_size)


def enumerated(score: list[float], slate_size: int, top_m: int, share: Fraction, explored_slots: int) -> np.ndarray:
    """The same by listing every order of ties, every order of the top m and every draw, in fractions."""
    n = len(score)
    descending = sorted(range(n), key=lambda i: -score[i])
    groups = [list(group) for _, group in groupby(descending, key=lambda i: score[i])]
    table = [[Fraction(0)] * slate_size for _ in range(n)]

    def fill(order: list[int], slot: int, probability: Fraction) -> None:
        if slot == slate_size:
            return
        e = share if slot < explored_slots else Fraction(0)
        for at, item in enumerate(order):
            p = probability * (e / len(order) + (1 - e if at == 0 else 0))
            if p:
                table[item][slot] += p
                fill(order[:at] + order[at + 1 :], slot + 1, p)

    orders = [list(chain(*parts)) for parts in product(*(list(permutations(g)) for g in groups))]
    m = min(top_m, n)
    for order in orders:
        for head in permutations(order[:m]):
            fill([*head, *order[m:]], 0, Fraction(1, len(orders) * math.factorial(m)))
    return np.array(table, dtype=float)


CASES: list[tuple[list[float], int, int, str]] = [
    ([3, 2, 1], 2, 1, "0"),
    ([3, 2, 1], 3, 1, "1/3"),
    ([1, 1, 1], 2, 1, "0"),
    ([2, 5, 2, 1], 2, 1, "0"),
    ([2, 5, 2, 1], 4, 1, "1/10"),
    ([4, 3, 2, 1], 2, 3, "0"),
    ([4, 3, 2, 1], 4, 2, "0"),
    ([4, 3, 2, 1], 3, 3, "1/4"),
    ([4, 2, 2, 2], 2, 2, "0"),  # the top m ends within a group of ties
    ([4, 2, 2, 2], 3, 2, "1/5"),
    ([4, 2, 2, 1], 1, 2, "1/2"),
    ([5, 4, 3, 2, 1], 3, 1, "1/7"),
    ([5, 4, 3, 2, 1], 5, 1, "3/4"),
    ([5, 5, 3, 2, 1], 2, 3, "1/3"),
    ([5, 4, 3, 3, 1], 3, 1, "1/1"),
    ([5, 5, 3, 3, 3], 1, 3, "1/9"),
]


@pytest.mark.parametrize(("score", "slate_size", "top_m", "share"), CASES)
def test_propensities_equal_full_enumeration(score: list[float], slate_size: int, top_m: int, share: str) -> None:
    """Every item at every position has the probability found by listing all that can happen."""
    expected = enumerated(score, slate_size, top_m, Fraction(share), slate_propensity.EXPLORED_SLOTS)
    found = exact(np.array(score), slate_size, top_m, float(Fraction(share)))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


@pytest.fixture
def two_explored_slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slates long enough to leave the explored slots, at sizes that can be enumerated."""
    tables = (slate_propensity._small_table, slate_propensity._large_table)
    for table in tables:
        table.cache_clear()
    monkeypatch.setattr(slate_propensity, "EXPLORED_SLOTS", 2)
    monkeypatch.setattr(slates, "EXPLORED_SLOTS", 2)
    yield
    for table in tables:
        table.cache_clear()


@pytest.mark.usefixtures("two_explored_slots")
@pytest.mark.parametrize(("score", "slate_size", "top_m", "share"), CASES)
def test_below_the_explored_slots_propensities_equal_enumeration(
    score: list[float], slate_size: int, top_m: int, share: str
) -> None:
    """With exploration bounded to the first two slots, the rest of the slate is by rank and still exact."""
    expected = enumerated(score, slate_size, top_m, Fraction(share), 2)
    found = exact(np.array(score), slate_size, top_m, float(Fraction(share)))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def assert_frequencies(score: np.ndarray, draws: int, positions: list[int], **settings: Any) -> None:
    """Picked items occur at each position as often as their exact propensities say (chi-square)."""
    n, keys = len(score), keys_of(len(score))
    kept = np.flatnonzero(~settings.get("excluded", np.zeros(n, np.bool_)))
    size = settings["slate_size"]
    probability = np.zeros((n, size))
    probability[kept] = exact(score[kept], size, settings.get("top_m", 1), settings.get("explore_share", 0.0))
    counts = np.zeros((n, size), np.int64)
    slots = np.arange(size)
    for seed in range(draws):
        counts[pick(score, keys=keys, seed=seed, **settings).chosen, slots] += 1
    for p in positions:
        expected = draws * probability[:, p]
        assert not counts[expected == 0, p].any()
        if (expected > 0).sum() > 1:
            likely = expected >= 5
            observed = np.append(counts[likely, p], counts[~likely, p].sum())
            wanted = np.append(expected[likely], expected[~likely].sum())
            assert stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"slate_size": 4},
        {"slate_size": 3, "top_m": 5},
        {"slate_size": 4, "explore_share": 0.3},
        {
            "slate_size": 4,
            "top_m": 4,
            "explore_share": 0.25,
            "excluded": np.array([0, 1, 0, 0, 0, 0, 1, 0, 0], np.bool_),
        },
    ],
    ids=["ties", "top-m", "explore", "all"],
)
def test_items_are_picked_as_often_as_their_propensity_says(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 100,000 seeds the frequency of every item at every position is its propensity."""
    # Only what is picked counts here; that the slate carries these numbers is another test.
    monkeypatch.setattr(slates, "position_probabilities", lambda first, *_, **__: np.ones(len(first)))
    score = np.array([5.0, 9.0, 5.0, 2.0, 5.0, 2.0, 7.0, 1.0, 8.0])
    assert_frequencies(score, DRAWS, list(range(settings["slate_size"])), **settings)


def test_a_slate_longer_than_the_explored_slots_is_picked_as_its_propensity_says() -> None:
    """Around the last explored slot of a slate of 70 the frequencies are the propensities."""
    score = np.linspace(1, 0, 72)
    assert_frequencies(score, 4_000, [0, 1, 63, 64, 69], slate_size=70, explore_share=0.3)


slate_cases = st.tuples(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, math.inf, -1.5]), max_size=12),
    st.integers(0, 14),
    st.integers(1, 14),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 2**64 - 1),
    st.randoms(use_true_random=False),
)


@given(slate_cases)
def test_a_slate_holds_its_invariants(case: Any) -> None:
    """No duplicate, nothing excluded, the asked size or all there are, propensities of the exact table."""
    values, slate_size, top_m, share, seed, random = case
    score, keys = np.array(values, np.float64), keys_of(len(values))
    excluded = np.array([random.random() < 0.3 for _ in values], np.bool_)
    slate = pick(
        score, keys=keys, slate_size=slate_size, top_m=top_m, explore_share=share, excluded=excluded, seed=seed
    )
    kept = np.flatnonzero(~excluded)
    size = min(slate_size or len(kept), len(kept))
    assert slate.chosen.shape == slate.propensity.shape == slate.explored.shape == (size,)
    assert slate.chosen.dtype == np.int64
    assert len(set(slate.chosen.tolist())) == size
    assert not excluded[slate.chosen].any()
    assert ((slate.propensity > 0) & (slate.propensity <= 1)).all()
    assert share > 0 or not slate.explored.any()
    if size:
        table = np.zeros((len(values), size))
        table[kept] = exact(score[kept], size, top_m, share)
        np.testing.assert_allclose(table.sum(axis=0), 1.0, rtol=1e-12)
        np.testing.assert_allclose(slate.propensity, table[slate.chosen, np.arange(size)], rtol=1e-12)


@given(slate_cases)
def test_a_slate_does_not_depend_on_the_order_of_candidates(case: Any) -> None:
    """Shuffled candidates with their keys give the same items with the same propensities; so does a repeat."""
    values, slate_size, top_m, share, seed, random = case
    score, keys = np.array(values, np.float64), keys_of(len(values))
    order = np.array(random.sample(range(len(values)), len(values)), np.int64)
    settings = {"slate_size": slate_size, "top_m": top_m, "explore_share": share, "seed": seed}
    slate = pick(score, keys=keys, **settings)
    shuffled = pick(score[order], keys=keys[order], **settings)
    assert order[shuffled.chosen].tolist() == slate.chosen.tolist()
    assert shuffled.propensity.tolist() == slate.propensity.tolist()
    assert shuffled.explored.tolist() == slate.explored.tolist()


@pytest.mark.parametrize("settings", [{}, {"top_m": 40}, {"explore_share": 1.0}], ids=["ties", "top-m", "explore"])
def test_another_seed_gives_another_slate(settings: dict[str, Any]) -> None:
    """Ties, the top m and exploration are all drawn from the seed."""
    score = np.linspace(1, 0, 40) if settings else np.zeros(40)
    picked = [pick(score, keys=keys_of(40), slate_size=10, seed=s, **settings).chosen.tolist() for s in range(20)]
    assert len({tuple(chosen) for chosen in picked}) == 20


def test_the_best_come_first_without_randomness() -> None:
    """Distinct scores, no exploration: sorted by score, propensity 1, for slates of any length."""
    score = np.random.default_rng(0).permutation(300).astype(float)
    for size in (0, 10, 299):
        slate = pick(score, keys=keys_of(300), slate_size=size, seed=0)
        assert np.array_equal(score[slate.chosen], 299.0 - np.arange(size or 300))
        assert (slate.propensity == 1).all()


def test_a_rare_draw_keeps_its_digits() -> None:
    """An exploration share of 1e-9 gives propensities right to twelve digits, not differences of sums near 1."""
    table = exact(np.arange(50.0), 3, 1, 1e-9)
    np.testing.assert_allclose(table[:47, 0], 1e-9 / 50, rtol=1e-12)
    assert table[49, 2] == pytest.approx((1e-9) ** 2 * (49 / 50) * (48 / 49) * (1 - 1e-9 + 1e-9 / 48), rel=1e-12)


def test_the_whole_ranking_of_the_largest_request_is_still_exact() -> None:
    """5,000 candidates ranked with exploration: the probabilities of each position sum to 1 over ranks."""
    table = slate_propensity._rank_table(5_000, 5_000, 0.1)
    np.testing.assert_allclose(table.head[:, :-1].sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(table.band.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("slate_size", -1), ("top_m", 0), ("explore_share", -0.1), ("explore_share", math.nan), ("seed", -1)],
)
def test_an_argument_out_of_range_is_refused(argument: str, value: Any) -> None:
    """The error names the argument and what came."""
    settings = {"slate_size": 2, "seed": 1, argument: value}
    with pytest.raises(ValueError, match=f"^{argument}: expected .* got {value}"):
        pick(np.zeros(3), keys=keys_of(3), **settings)


def test_a_nan_score_is_refused() -> None:
    """A NaN has no rank."""
    with pytest.raises(ValueError, match="score: expected no NaN, got 1"):
        pick(np.array([1.0, np.nan, 2.0]), keys=keys_of(3), slate_size=1, seed=0)


def test_two_item_thompson_propensity_equals_the_closed_form() -> None:
    """P(N(m1, s1) > N(m2, s2)) = Phi((m1 - m2) / sqrt(s1^2 + s2^2)), within five standard errors and the bias."""
    count = 20_000
    mean, sd = np.array([0.3, 0.2]), np.array([0.1, 0.25])
    redraws = mean + sd * np.random.default_rng(6).standard_normal((count, 2))
    truth = stats.norm.cdf((mean[0] - mean[1]) / math.hypot(*sd))
    first = Slate(np.array([0, 1]), np.ones(2), np.zeros(2, np.bool_))
    second = Slate(np.array([1]), np.ones(1), np.zeros(1, np.bool_))
    error = 5 * math.sqrt(truth * (1 - truth) / count) + 1 / (count + 1)
    np.testing.assert_allclose(estimate_propensity(first, redraws), truth, atol=error)
    np.testing.assert_allclose(estimate_propensity(second, redraws), 1 - truth, atol=error)


def test_an_estimate_is_the_mean_of_exact_propensities() -> None:
    """With ties, top m, exploration and exclusions: the served propensity averaged with each redraw's."""
    rng = np.random.default_rng(7)
    redraws = np.round(rng.random((40, 8)), 1)
    redraws[:, 2] = np.inf
    excluded = np.array([0, 0, 0, 1, 0, 0, 1, 0], np.bool_)
    settings = {"top_m": 3, "explore_share": 0.2, "excluded": excluded}
    slate = pick(redraws[0], keys=keys_of(8), slate_size=4, seed=3, **settings)
    kept = np.flatnonzero(~excluded)
    tables = [exact(row[kept], 4, 3, 0.2) for row in redraws]
    each = [table[np.searchsorted(kept, slate.chosen), np.arange(4)] for table in tables]
    expected = (slate.propensity + np.sum(each, axis=0)) / 41
    np.testing.assert_allclose(estimate_propensity(slate, redraws, **settings), expected, rtol=1e-12)


def test_an_estimate_by_rank_alone_is_the_mean_of_exact_propensities() -> None:
    """Without ties, top m and exploration there is a short cut; exclusions are still respected."""
    redraws = np.random.default_rng(8).random((40, 6))
    excluded = np.array([0, 0, 1, 0, 0, 0], np.bool_)
    kept = np.flatnonzero(~excluded)
    slate = pick(redraws[0], keys=keys_of(6), slate_size=5, seed=3, excluded=excluded)
    each = [exact(row[kept], 5, 1, 0.0)[np.searchsorted(kept, slate.chosen), np.arange(5)] for row in redraws]
    expected = (slate.propensity + np.sum(each, axis=0)) / 41
    np.testing.assert_allclose(estimate_propensity(slate, redraws, excluded=excluded), expected, rtol=1e-12)


def test_an_estimate_is_never_zero() -> None:
    """An item that no redraw ranks there counts once, as the draw that was served: 1 / (M + 1)."""
    redraws = np.tile([1.0, 0.0], (99, 1))
    slate = Slate(np.array([1]), np.ones(1), np.zeros(1, np.bool_))
    assert estimate_propensity(slate, redraws).tolist() == [0.01]
    empty = Slate(np.empty(0, np.int64), np.empty(0), np.empty(0, np.bool_))
    assert len(estimate_propensity(empty, redraws)) == 0

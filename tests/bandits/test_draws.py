import numpy as np
import pytest
from scipy import stats

from bandits import draws
from bandits.draws import EXPLORE_COIN, THOMPSON, TIES, bits, normals, uniforms
from bandits.hashing import mix

KEYS = np.arange(20_000, dtype=np.uint64)  # the worst keys: small and consecutive
LARGEST = 2**64 - 1


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    """The draw of a key is the same alone, among others, and in another order."""
    drawn = uniforms(42, TIES, KEYS)
    shuffled = np.random.default_rng(0).permutation(len(KEYS))
    assert np.array_equal(uniforms(42, TIES, KEYS[shuffled]), drawn[shuffled])
    assert uniforms(42, TIES, KEYS[7:8])[0] == drawn[7]


def test_distinct_keys_never_share_their_bits() -> None:
    """For any seed the map from keys to bits is a bijection, so random order has no ties."""
    for seed in (0, 1, LARGEST):
        assert len(np.unique(bits(seed, TIES, KEYS))) == len(KEYS)


@pytest.mark.parametrize("seed", [0, 1, 2**63, LARGEST])
def test_uniforms_are_uniform_for_consecutive_keys(seed: int) -> None:
    """Consecutive keys of any seed pass a Kolmogorov-Smirnov test."""
    assert stats.kstest(uniforms(seed, THOMPSON, KEYS), "uniform").pvalue > 1e-4


def test_normals_are_standard_normal_for_one_key_over_seeds() -> None:
    """What one item draws from request to request is standard normal."""
    drawn = np.concatenate([normals(seed, THOMPSON, KEYS[5:6]) for seed in range(5_000)])
    assert stats.kstest(drawn, "norm").pvalue > 1e-4


@pytest.mark.parametrize("bit", [0, 1, 31, 62, 63])
def test_keys_that_differ_in_one_bit_are_uncorrelated_over_seeds(bit: int) -> None:
    """Which of two items wins a tie is a fair coin even if their keys are alike."""
    pair = np.array([12345, 12345 ^ (1 << bit)], np.uint64)
    drawn = np.array([uniforms(seed, TIES, pair) for seed in range(5_000)])
    wins = int((drawn[:, 0] < drawn[:, 1]).sum())
    assert stats.binomtest(wins, 5_000).pvalue > 1e-4
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4 / np.sqrt(5_000)


@pytest.mark.parametrize(("first", "second"), [((1, TIES), (2, TIES)), ((1, TIES), (1, EXPLORE_COIN))])
def test_seeds_and_streams_are_uncorrelated(first: tuple[int, int], second: tuple[int, int]) -> None:
    """Another seed or another stream gives unrelated draws for the same keys."""
    drawn = np.corrcoef(uniforms(*first, KEYS), uniforms(*second, KEYS))
    assert abs(drawn[0, 1]) < 4 / np.sqrt(len(KEYS))


def test_the_extreme_bits_give_finite_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform draw is never 0 or 1, so no normal draw is infinite."""
    monkeypatch.setattr(draws, "bits", lambda seed, stream, keys: np.array([0, LARGEST], np.uint64))
    drawn = uniforms(0, TIES, KEYS[:2])
    assert drawn[0] > 0
    assert drawn[1] < 1
    assert np.isfinite(normals(0, TIES, KEYS[:2])).all()


def test_the_scalar_mixer_is_the_array_mixer() -> None:
    """Seeds are mixed by the same function as keys."""
    values = [0, 1, 2**32, LARGEST, 0x9E3779B97F4A7C15]
    assert [draws._mix_int(value) for value in values] == mix(np.array(values, np.uint64)).tolist()


def test_draws_are_the_same_on_every_machine() -> None:
    """A stored seed reproduces its draws in every later release."""
    assert bits(7, TIES, np.array([1, 2], np.uint64)).tolist() == RECORDED


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    """A seed that the protocol cannot carry is an error that names it."""
    with pytest.raises(ValueError, match=f"seed: expected .* got {seed}"):
        bits(seed, TIES, KEYS[:1])


RECORDED = [471328084780641405, 2463476524755210997]

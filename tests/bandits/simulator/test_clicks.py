"""Click and delay models against their definitions."""

import itertools

import numpy as np
import pytest

from bandits.simulator.clicks import (
    Cascade,
    ClickModel,
    Independent,
    PositionBased,
    draw_clicks,
    geometric,
    logarithmic,
)
from bandits.simulator.delays import Delay, Fixed, Lognormal, Pareto

P = np.array([0.5, 0.1, 0.6, 0.3])
MODELS = [
    Independent(),
    PositionBased(logarithmic(4)),
    PositionBased(geometric(6, ratio=0.7)),
    Cascade(),
    Cascade(patience=0.8, after_click=0.4),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_clicks_are_as_frequent_as_the_model_says(model: ClickModel) -> None:
    """Over 200,000 slates every position is clicked at its chance, within five standard errors."""
    clicks = draw_clicks(model, np.tile(P, (200_000, 1)), np.random.default_rng(11))
    chances = model.chances(P)
    errors = np.sqrt(chances * (1 - chances) / 200_000)
    assert (np.abs(clicks.mean(axis=0) - chances) < 5 * errors).all()


def test_cascade_scans_from_the_top() -> None:
    """Against a scan written out, for every pattern of attraction and patience over three positions."""
    model = Cascade(patience=0.5, after_click=0.25)
    p = np.array([0.5, 0.5, 0.5])
    for attract, leave in itertools.product(
        itertools.product((0.2, 0.8), repeat=3), itertools.product((0.1, 0.3, 0.7), repeat=3)
    ):
        expected = [False] * 3
        for position in range(3):
            expected[position] = attract[position] < 0.5
            if leave[position] >= (0.25 if expected[position] else 0.5):
                break
        assert model.clicks(p, np.array([attract, leave])).tolist() == expected


def test_plain_cascade_clicks_once_at_most() -> None:
    """The model of Craswell et al. stops at the first click, and all attracted users click."""
    rng = np.random.default_rng(0)
    uniforms = rng.random((2, 1000, 4))
    clicks = Cascade().clicks(np.tile(P, (1000, 1)), uniforms)
    assert clicks.sum(axis=1).max() == 1
    attracted = uniforms[0] < P
    assert np.array_equal(clicks.any(axis=1), attracted.any(axis=1))
    assert np.array_equal(clicks.argmax(axis=1), attracted.argmax(axis=1))


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_drawing_clicks_leaves_its_inputs_alone(model: ClickModel) -> None:
    """Probabilities and uniforms are not written to, and equal draws give equal clicks."""
    p, uniforms = P.copy(), np.random.default_rng(3).random((2, 4))
    kept = uniforms.copy()
    first = model.clicks(p, uniforms)
    model.chances(p)
    assert np.array_equal(first, model.clicks(p, uniforms))
    assert np.array_equal(p, P)
    assert np.array_equal(uniforms, kept)


def test_examination_falls_from_one() -> None:
    """The first position is always examined, later ones less, as the discount says."""
    assert logarithmic(3) == pytest.approx((1.0, 1 / np.log2(3), 0.5))
    assert geometric(3, ratio=0.5) == (1.0, 0.5, 0.25)


def test_a_slate_longer_than_the_examination_is_refused() -> None:
    """A position without a gamma is an error, not a click."""
    with pytest.raises(ValueError, match="expected 4 positions or more, got 2"):
        PositionBased((1.0, 0.5)).chances(P)


@pytest.mark.parametrize(
    ("delay", "low", "median", "cap"),
    [
        (Fixed(3.0), 3.0, 3.0, 3.0),
        (Fixed(), 0.0, 0.0, 0.0),
        (Lognormal(median=50.0, deviation=2.0, cap=900.0), 0.0, 50.0, 900.0),
        (Pareto(smallest=10.0, tail=0.5, cap=900.0), 10.0, 40.0, 900.0),
    ],
    ids=repr,
)
def test_delays_grow_from_their_smallest_to_the_cap(delay: Delay, low: float, median: float, cap: float) -> None:
    """Quantiles ascend, the median is as declared, and the extreme of the tail is cut."""
    drawn = delay.draw(np.array([1e-300, 0.25, 0.5, 0.75, 1 - 2**-53]))
    assert (np.diff(drawn) >= 0).all()
    assert drawn[0] >= low
    assert drawn[2] == pytest.approx(median)
    assert drawn[-1] == cap

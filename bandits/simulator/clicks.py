"""Click models: which of the shown items are clicked, given how attractive each is.

Invariants: a click needs the item to be examined and to attract; clicks are a pure function of the attraction
probabilities and of uniform draws; `chances` is the exact expectation of `clicks`.

Each model takes attraction p of shape (..., S), top of the slate first, and uniforms of shape (2, ..., S) within
[0, 1): the first decides whether an examined item is clicked, the second whether the user goes on to the next.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class ClickModel(Protocol):
    """How users look at a slate."""

    def clicks(self, p: Float64, uniforms: Float64) -> Bool:
        """Which items are clicked, bool of the shape of `p`."""

    def chances(self, p: Float64) -> Float64:
        """Probability of a click on each item, float64 of the shape of `p`."""


@dataclass(frozen=True)
class Independent:
    """Every shown item is examined, and clicked with its own probability."""

    def clicks(self, p: Float64, uniforms: Float64) -> Bool:
        """Which items are clicked, bool of the shape of `p`."""
        clicked: Bool = uniforms[0] < p
        return clicked

    def chances(self, p: Float64) -> Float64:
        """Probability of a click on each item: p itself."""
        return np.asarray(p, np.float64)


@dataclass(frozen=True)
class PositionBased:
    """An item is examined with a probability gamma that only its position decides.

    (Richardson, Dominowska and Ragno, Predicting clicks, WWW 2007: the examination hypothesis.)

    Attributes:
        examination: gamma of each position, of length S or more; see `logarithmic` and `geometric`.

    Examples:
        >>> PositionBased(geometric(3, ratio=0.5)).chances(np.array([0.4, 0.4, 0.4])).tolist()
        [0.4, 0.2, 0.1]
    """

    examination: tuple[float, ...]

    def clicks(self, p: Float64, uniforms: Float64) -> Bool:
        """Which items are clicked, bool of the shape of `p`."""
        clicked: Bool = uniforms[0] < self.chances(p)
        return clicked

    def chances(self, p: Float64) -> Float64:
        """Probability of a click on each item: gamma * p."""
        size = p.shape[-1]
        if size > len(self.examination):
            raise ValueError(f"examination: expected {size} positions or more, got {len(self.examination)}")
        chances: Float64 = p * np.array(self.examination[:size])
        return chances


@dataclass(frozen=True)
class Cascade:
    """The user reads from the top and stops at the first click, or before for lack of patience.

    With patience 1 and after_click 0 the cascade model of Craswell, Zoeter, Taylor and Ramsey (WSDM 2008);
    after_click > 0 is the dependent click model with one lambda (Guo, Liu and Wang, WSDM 2009); patience < 1 the
    perseverance of Chapelle and Zhang (WWW 2009).

    Attributes:
        patience: probability of reading on after an item that was not clicked.
        after_click: probability of reading on after a click.
    """

    patience: float = 1.0
    after_click: float = 0.0

    def clicks(self, p: Float64, uniforms: Float64) -> Bool:
        """Which items are clicked, bool of the shape of `p`."""
        attracted = uniforms[0] < p
        goes_on = uniforms[1] < np.where(attracted, self.after_click, self.patience)
        examined = np.logical_and.accumulate(goes_on, axis=-1)
        clicked: Bool = attracted
        clicked[..., 1:] &= examined[..., :-1]
        return clicked

    def chances(self, p: Float64) -> Float64:
        """Probability of a click: p_i times the product over j < i of (1 - p_j) patience + p_j after_click."""
        goes_on = np.cumprod((1.0 - p) * self.patience + p * self.after_click, axis=-1)
        chances = np.array(p, np.float64)
        chances[..., 1:] *= goes_on[..., :-1]
        return chances


def logarithmic(slate_size: int) -> tuple[float, ...]:
    """Examination 1 / log2(2 + position), the discount of DCG (Järvelin and Kekäläinen, TOIS 2002)."""
    return tuple(float(gamma) for gamma in 1.0 / np.log2(2.0 + np.arange(slate_size)))


def geometric(slate_size: int, *, ratio: float) -> tuple[float, ...]:
    """Examination ratio^position, as of a reader who leaves at a constant rate (Moffat and Zobel, TOIS 2008)."""
    return tuple(ratio**position for position in range(slate_size))


def draw_clicks(model: ClickModel, p: Float64, rng: np.random.Generator) -> Bool:
    """Clicks on slates of attraction `p`, bool of the same shape, from a generator."""
    return model.clicks(p, rng.random((2, *p.shape)))

"""What simulated users need to know of where they live: the numbers of items, and what becomes of a slate.

Invariants: nothing here is known to the server but the graph; expected rewards are those of the click model on the
true probabilities, so that reward, uniform and best possible of one slate are comparable.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bandits.simulator.world import Users

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of n slates.

    Attributes:
        clicked: bool of shape (n, S).
        expected: expected clicks of the slates, float64 of shape (n,).
        uniform: expected clicks of uniformly random slates for the same users, float64 of shape (n,).
        best: expected clicks of the best slates there are for the same users, float64 of shape (n,).
    """

    clicked: npt.NDArray[np.bool_]
    expected: Float64
    uniform: Float64
    best: Float64


class Surroundings(Protocol):
    """Where simulated users live. Safe to use from several threads."""

    def stranger(self, graph_version: str, item_ids: list[str]) -> str | None:
        """What is wrong with a reply of this graph and these items; None if it is one of this world."""

    def numbers(self, item_ids: list[str]) -> list[int]:
        """Numbers of items of this world."""

    def people(self, seed: int, n: int) -> Users:
        """The population that calls come from."""

    def react(self, users: Users, who: Int64, shown: Int64, rng: np.random.Generator, *, step: float) -> Outcome:
        """What users do with the slates that they are shown.

        Args:
            users: the population.
            who: numbers of the users, int64 of shape (n,).
            shown: item numbers, top first, int64 of shape (n, S).
            rng: decides the clicks.
            step: seconds since the start, for the drift.
        """

"""Forgetting pays under drift and costs little without, through the real sums."""

import numpy as np

from benchmarks.drift import World, outcome

ROUNDS = 60_000


def gain(turns: float) -> float:
    """Mean reward with a half-life of a quarter of the run, beside remembering everything."""
    worlds = [World(ROUNDS, turns, seed) for seed in (0, 1)]
    return float(np.mean([outcome(w, ROUNDS // 4).reward / outcome(w, 0).reward for w in worlds]))


def test_forgetting_beats_remembering_where_tastes_turn() -> None:
    """Every item's appeal goes through two full circles: at least 2 % more clicks."""
    assert gain(2.0) > 1.02


def test_forgetting_costs_less_than_three_percent_where_they_stay() -> None:
    """The price of memory that is not needed: at most 3 % of the clicks."""
    assert gain(0.0) > 0.97

"""Scenarios of the regret table: what is clicked, when it is told, and what changes on the way.

Invariants: conditions are a pure function of scenario, rounds, delay and seed; every click probability lies within
[0, 0.6]; feedback never arrives before the round after its own; each item is published at the start, or once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.simulator.clicks import geometric
from bandits.simulator.delays import Pareto
from bandits.simulator.fixed_environment import ITEMS, MAX_SLATE, WIDTH, Environment
from bandits.simulator.world import HIGHEST

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DRIFT_PHASES = 100  # between which click probabilities stand still
_POPULARITY, _DELAYS, _ARRIVALS = 0, 1, 2  # independent draws of one seed
_FIRST_SEED = 5000


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is compared.

    Attributes:
        about: in a few words.
        k: clusters of a context; 1 is one-hot.
        slate_size: items shown in each round.
        scale: factor of all click probabilities.
        popularity: standard deviation of the log popularity of items, a factor of all their click probabilities.
        half_life: share of the run after which popularity correlates by 1/2 with what it was; 0 = it stays.
        examination: probability that each position is looked at, top first.
        stops_at_click: the user looks no further after a click (cascade model).
        heavy_tail: delays are Pareto with tail 0.7 (no mean) rather than fixed.
        arriving: share of the items that are published during the first three quarters of the run.
        items: of the environment.
        width: edges of a cluster there.
    """

    about: str
    k: int = 5
    slate_size: int = 1
    scale: float = 1.0
    popularity: float = 0.0
    half_life: float = 0.0
    examination: tuple[float, ...] = (1.0,) * MAX_SLATE
    stops_at_click: bool = False
    heavy_tail: bool = False
    arriving: float = 0.0
    items: int = ITEMS
    width: int = WIDTH


SCENARIOS = {
    "A": Scenario(about="five overlapping clusters a context, one item"),
    "B": Scenario(about="one-hot contexts, one item", k=1),
    "C": Scenario(about="five overlapping clusters, slates of five", slate_size=5),
    "low": Scenario(about="A with click probabilities divided by 10", scale=0.1),
    "low-B": Scenario(about="B with click probabilities divided by 10", k=1, scale=0.1),
    "rare": Scenario(about="A with a mean click probability of 0.5 % an edge", scale=0.0275),
    "few": Scenario(about="A with 100 items, 10 edges a cluster", items=100, width=10),
    "many": Scenario(about="A with 2,000 items, 200 edges a cluster", items=2_000, width=200),
    "popular": Scenario(about="A with popular and unpopular items", popularity=0.7),
    "drift": Scenario(
        about="A, popularity turns with a half-life of a quarter of the run", popularity=0.7, half_life=0.25
    ),
    "arrivals": Scenario(about="A, half of the items are published on the way", arriving=0.5),
    "position": Scenario(
        about="C, lower positions are looked at less, 0.7 a step", slate_size=5, examination=geometric(5, ratio=0.7)
    ),
    "cascade": Scenario(about="C, users stop at the first click", slate_size=5, stops_at_click=True),
    "heavy-tail": Scenario(about="A, delays of infinite mean, median 54 rounds", heavy_tail=True),
}


@dataclass(frozen=True, eq=False)
class Conditions:
    """A scenario of T rounds as the loop over rounds takes it.

    Attributes:
        theta: click probabilities of each phase, float64 of shape (P, 50, 500).
        phase_rounds: rounds of a phase; the last one stays.
        published: first round in which an item can be shown, int64 of shape (500,).
        examination: float64 of shape (S,).
        stops_at_click: True in the cascade model.
        arrives: round before which feedback of each round is told, int64 of shape (T,).
    """

    theta: Float64
    phase_rounds: int
    published: Int64
    examination: Float64
    stops_at_click: bool
    arrives: Int64


def plain_conditions(world: Environment, rounds: int, *, delay: int) -> Conditions:
    """Those of the published numbers: nothing changes, every position is looked at, one delay for all."""
    return make_conditions(world, Scenario(about="plain"), rounds, delay=delay, seed=0)


def make_conditions(world: Environment, scenario: Scenario, rounds: int, *, delay: int, seed: int) -> Conditions:
    """Conditions of a seed.

    Args:
        world: the environment.
        scenario: what changes.
        rounds: T.
        delay: of all feedback, in rounds; not used where delays are heavy-tailed.
        seed: of popularity, delays and arrivals.
    """
    now = np.arange(rounds, dtype=np.int64)
    late = np.full(rounds, delay, np.int64)
    if scenario.heavy_tail:
        rng = np.random.default_rng([_FIRST_SEED + seed, _DELAYS])
        drawn = rng.random(rounds)
        late = Pareto(smallest=20.0, tail=0.7, cap=float(rounds)).draw(drawn).astype(np.int64)
    theta = world.theta[None] * scenario.scale
    phase_rounds = max(1, rounds // DRIFT_PHASES)
    if scenario.popularity:
        factors = np.exp(scenario.popularity * _popularity(scenario.half_life, world.theta.shape[1], seed))
        theta = np.minimum(theta * factors[:, None, :], HIGHEST)
    published = np.zeros(world.theta.shape[1], np.int64)
    if scenario.arriving:
        rng = np.random.default_rng([_FIRST_SEED + seed, _ARRIVALS])
        later = rng.random(len(published)) < scenario.arriving
        published[later] = rng.integers(0, max(1, rounds * 3 // 4), int(later.sum()))
    return Conditions(
        theta=np.ascontiguousarray(theta),
        phase_rounds=phase_rounds,
        published=published,
        examination=np.array(scenario.examination),
        stops_at_click=scenario.stops_at_click,
        arrives=now + late + 1,
    )


def _popularity(half_life: float, n_items: int, seed: int) -> Float64:
    """Standard normal popularity of items, of shape (phases, items), turning as tastes do in `World`."""
    rng = np.random.default_rng([_FIRST_SEED + seed, _POPULARITY])
    if not half_life:
        return rng.standard_normal((1, n_items))
    place = np.arange(DRIFT_PHASES) / DRIFT_PHASES / (1.5 * half_life)
    knots = rng.standard_normal((int(place[-1]) + 2, n_items))
    knot = place.astype(int)
    angle = (place - knot)[:, None] * np.pi / 2
    turned: Float64 = np.cos(angle) * knots[knot] + np.sin(angle) * knots[knot + 1]
    return turned

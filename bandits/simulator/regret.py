"""Regret of a policy on the fixed environment.

Invariants: a run is a pure function of stream, policy, slate, delay and generator; regret of a round is never
negative, as the best slate is picked among the same candidates with the truth known, the best item on top.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.simulator.fixed_environment import MAX_SLATE, Environment, Stream
from bandits.simulator.regret_policies import RANDOMIZED_ROW, RegretPolicy
from bandits.simulator.regret_scenarios import Conditions, plain_conditions

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Played:
    """What happened in T rounds of slates of S.

    Attributes:
        actions: items shown, int32 of shape (T, S).
        clicks: bool of shape (T, S).
        regret: expected clicks of the best slate less those of the shown one, float64 of shape (T,).
    """

    actions: npt.NDArray[np.int32]
    clicks: npt.NDArray[np.bool_]
    regret: Float64


def play(
    world: Environment,
    stream: Stream,
    policy: RegretPolicy,
    *,
    slate_size: int = 1,
    delay: int = 0,
    conditions: Conditions | None = None,
    rng: np.random.Generator,
) -> Played:
    """Run a policy over a stream. The first run in a process compiles, or loads what was compiled.

    Args:
        world: the environment.
        stream: contexts and draws.
        policy: see `regret_policies.policy`.
        slate_size: S, 1 to 5.
        delay: feedback of round q is applied before round t iff q + delay < t; 0 = before the next round.
        conditions: what is clicked and when it is told; if not given, as published, with this delay.
        rng: for the policy's own draws.

    Raises:
        ValueError: `slate_size` or `delay` is out of range.
    """
    if not 1 <= slate_size <= MAX_SLATE:
        raise ValueError(f"slate_size: expected 1 to {MAX_SLATE}, got {slate_size}")
    if delay < 0:
        raise ValueError(f"delay: expected 0 rounds or more, got {delay}")
    from bandits.simulator.numba_rounds import play_rounds

    given = conditions or plain_conditions(world, len(stream.clusters), delay=delay)
    if len(given.arrives) != len(stream.clusters):
        raise ValueError(f"conditions: expected those of {len(stream.clusters)} rounds, got {len(given.arrives)}")
    actions, clicks, regret = play_rounds(
        int(policy.kind),
        float(policy.parameter),
        RANDOMIZED_ROW,
        stream.clusters,
        stream.weights,
        stream.uniforms,
        given.theta,
        given.phase_rounds,
        world.lists,
        world.place,
        given.published,
        given.examination,
        given.stops_at_click,
        np.argsort(given.arrives, kind="stable"),
        given.arrives,
        slate_size,
        rng,
    )
    return Played(actions, clicks, regret)

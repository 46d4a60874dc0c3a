"""Policies of the regret table by name.

Invariants: a policy is a kind and one parameter; a policy that draws nothing picks equal scores by lowest item.

`randomized_ucb` (parameter: optimism) is the mode of that name in `bandits.policies`; in a run impressions count
when shown and rewards when they come, as in Freshet's `immediate` resolution, and the pooled mean is fitted anew
every hundred rounds. All others are told of an impression together with its reward.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from bandits.policies import HIGHEST_RATE, LOWEST_RATE, STEADY
from bandits.policy_settings import PolicySettings

# What `randomized_ucb` reads, as the loop over rounds takes it.
RANDOMIZED_ROW = np.array(
    [PolicySettings.edge_strength, PolicySettings.item_strength, STEADY, LOWEST_RATE, HIGHEST_RATE]
)
RANDOMIZED_ROW.setflags(write=False)


class Kind(IntEnum):
    """How candidates are scored; numbers up to BETA_ITEM use counts, the next edges, the last full matrices.

    A number is never given to something else: compiled code that was cached has it built in.
    """

    RANDOM = 0
    EPSILON_ITEM = 1
    EPSILON_CLUSTER = 2
    UCB1_ITEM = 3
    UCB1_CLUSTER = 4
    BETA_ITEM = 5
    BETA_EDGE = 10
    DIAG_UCB = 11
    DIAG_UCB_WNORM = 12
    DIAG_TS = 13
    RANDOMIZED_UCB = 15
    LINUCB_FULL = 20
    LINTS_FULL = 21


@dataclass(frozen=True)
class RegretPolicy:
    """A policy of the table.

    Attributes:
        name: as in the table.
        kind: how it scores.
        parameter: alpha, v, c or epsilon; 0 where it has none.
    """

    name: str
    kind: Kind
    parameter: float = 0.0

    @property
    def draws(self) -> bool:
        """Whether its actions depend on the generator."""
        deterministic = (Kind.UCB1_ITEM, Kind.UCB1_CLUSTER, Kind.DIAG_UCB, Kind.DIAG_UCB_WNORM, Kind.LINUCB_FULL)
        return self.kind not in deterministic


KINDS: dict[str, Kind] = {
    "random": Kind.RANDOM,
    "eps_greedy_item": Kind.EPSILON_ITEM,
    "eps_greedy_cluster": Kind.EPSILON_CLUSTER,
    "ucb1_item": Kind.UCB1_ITEM,
    "ucb1_cluster": Kind.UCB1_CLUSTER,
    "beta_ts_item": Kind.BETA_ITEM,
    "beta_ts_edge": Kind.BETA_EDGE,
    "diag_linucb": Kind.DIAG_UCB,
    "diag_linucb_wnorm": Kind.DIAG_UCB_WNORM,
    "diag_ts": Kind.DIAG_TS,
    "randomized_ucb": Kind.RANDOMIZED_UCB,
    "linucb_full": Kind.LINUCB_FULL,
    "lints_full": Kind.LINTS_FULL,
}


def policy(name: str, parameter: float = 0.0) -> RegretPolicy:
    """A policy by the name of the table.

    Raises:
        ValueError: there is no such policy.
    """
    if name not in KINDS:
        raise ValueError(f"policy: expected one of {tuple(KINDS)}, got {name!r}")
    return RegretPolicy(name, KINDS[name], parameter)

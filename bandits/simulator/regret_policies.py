"""Policies of the regret table by name.

Invariants: a policy is a kind and one parameter; a policy that draws nothing picks equal scores by lowest item.

`random_optimism` (parameter v) is not of the published table. It keeps the same three sums of an edge over sharper
weights x = w^1.5: a = sum x and d = sum x^2 of impressions, added when shown, and b = sum x r of rewards, added
when they come. With n = a^2 / d, the effective number of impressions (Kish, Survey Sampling, 1965), n0 = 7 and
m0 = 0.36,

    theta = (n b/a + n0 m0) / (n + n0)                        weighted average, shrunk to an optimistic prior
    mean  = sum of w theta over edges + 0.06 sum of w over missing edges
    width = sqrt(sum of w^2 / (4 (n + n0)) over edges)        the variance of a click is 1/4 at most
    score = mean + v width (0.6 + 0.4 sqrt(E)),  E ~ Exp(1) for each item

Sharper weights tell overlapping clusters apart; impressions in flight lower theta and width alike, so delay costs
little; steady optimism with a little noise explores less than a Gaussian draw as the number of candidates grows
(Vaswani et al., Old Dog Learns New Tricks: Randomized UCB, AISTATS 2020, with a draw for each item).

Its constants were chosen on this environment, at click rates around 0.2: with every theta divided by ten it
explores too long and loses to `diag_linucb` and `diag_linucb_wnorm`. They are no default for real click rates.
"""

from dataclasses import dataclass
from enum import IntEnum

SHARPNESS = 1.5  # x = w^1.5
PRIOR_MEAN, PRIOR_STRENGTH = 0.36, 7.0  # m0, n0: optimistic, twice the mean of an edge
OFF_GRAPH_MEAN = 0.06
STEADY = 0.6  # share of the optimism that is not drawn


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
    RANDOM_OPTIMISM = 14
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
    "random_optimism": Kind.RANDOM_OPTIMISM,
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

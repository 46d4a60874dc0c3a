"""Settings of the policies: their ranges, and the name under which a policy is recorded.

Invariants: an instance of `PolicySettings` is within its ranges; the name tells apart settings that score apart.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

Estimator = Literal["diagonal", "averaged"]
Unseen = Literal["infinite", "prior"]

SMALLEST_STRENGTH = 2.0**-30  # the unit of d
SMALLEST_POOLED_MEAN, LARGEST_POOLED_MEAN = 1e-9, 0.97

_RANGES: dict[str, tuple[float, float]] = {
    "alpha": (0.0, 100.0),
    "thompson_scale": (0.0, 100.0),
    "prior_mean": (0.0, 1.0),
    "prior_strength": (0.0, 1e9),
    "epsilon": (0.0, 1.0),
    "optimism": (0.0, 100.0),
    "edge_strength": (1e-3, 1e9),
    "item_strength": (1e-3, 1e9),
    "pooled_mean": (SMALLEST_POOLED_MEAN, LARGEST_POOLED_MEAN),
}
_CHOICES = {"estimator": ("diagonal", "averaged"), "unseen": ("infinite", "prior")}
BETA_RANGE = (1e-6, 1e9)


@dataclass(frozen=True)
class PolicySettings:
    """Settings of all modes; each mode reads its own.

    Attributes:
        alpha: factor of the width in `ucb` (Eq. 7).
        thompson_scale: factor v of the width in `thompson`.
        prior_mean: mean reward that an edge is believed to have before it is seen.
        prior_strength: how much that belief weighs, in units of d; 0 or at least 2^-30.
        epsilon: share of slots that `epsilon_greedy` draws uniformly; the slate picker applies it.
        beta_prior: (a0, b0) of `beta_thompson`.
        optimism: factor of the width in `randomized_ucb`.
        edge_strength: what the item's mean weighs against an edge's own there, in rewards.
        item_strength: what the pooled mean weighs against an item's own there, in rewards.
        pooled_mean: mean reward of all impressions there; see `with_pooled_mean`.
        estimator: "diagonal" is Diag-LinUCB as published, theta = b / d; "averaged" is theta = b / a, unbiased
            where clusters overlap.
        unseen: "infinite" gives an item with an edge of d = 0 an infinite bound; "prior" trusts the prior alone.

    Raises:
        ValueError: a field is out of its range; the message names it.
    """

    alpha: float = 0.3
    thompson_scale: float = 0.3
    prior_mean: float = 0.0
    prior_strength: float = 0.0
    epsilon: float = 0.1
    beta_prior: tuple[float, float] = (1.0, 1.0)
    optimism: float = 0.55
    edge_strength: float = 2.5
    item_strength: float = 40.0
    pooled_mean: float = 0.5
    estimator: Estimator = "averaged"
    unseen: Unseen = "infinite"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {getattr(self, name)!r}")
        if len(self.beta_prior) != 2:
            raise ValueError(f"beta_prior: expected two numbers (a0, b0), got {self.beta_prior}")
        for value in self.beta_prior:
            _check_range("beta_prior", value, *BETA_RANGE)
        if 0 < self.prior_strength < SMALLEST_STRENGTH:
            raise ValueError(f"prior_strength: expected 0 or at least 2^-30, got {self.prior_strength}")
        if self.unseen == "prior" and self.prior_strength == 0:
            raise ValueError("prior_strength: expected more than 0 with unseen='prior', got 0")


def with_pooled_mean(settings: PolicySettings, *, impressions: float, rewards: float) -> PolicySettings:
    """Settings with the pooled mean of all items, (rewards + 1/2) / (impressions + 1), to three digits.

    So many digits are in the name of the policy, so that what a reply was scored with can be read from it.

    Args:
        settings: the rest.
        impressions: of all items, 0 or more.
        rewards: of all items, 0 or more.
    """
    mean = float(f"{(rewards + 0.5) / (impressions + 1.0):.3g}")
    pooled = min(max(mean, SMALLEST_POOLED_MEAN), LARGEST_POOLED_MEAN)
    return settings if pooled == settings.pooled_mean else replace(settings, pooled_mean=pooled)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN fails too
        raise ValueError(f"{name}: expected {low:g} <= {name} <= {high:g}, got {value}")


_EDGE_FIELDS = ("prior_mean", "prior_strength", "estimator", "unseen")
_SHOWN: dict[str, tuple[str, ...]] = {
    "exploit": _EDGE_FIELDS,
    "ucb": ("alpha", *_EDGE_FIELDS),
    "thompson": ("thompson_scale", *_EDGE_FIELDS),
    "beta_thompson": ("beta_prior",),
    "epsilon_greedy": ("epsilon", *_EDGE_FIELDS),
    "uniform": (),
    "randomized_ucb": ("optimism", "pooled_mean", "edge_strength", "item_strength"),
}
_ALWAYS_SHOWN = {"alpha", "thompson_scale", "epsilon", "beta_prior", "estimator", "optimism", "pooled_mean"}
_DEFAULTS = {field.name: field.default for field in fields(PolicySettings)}


def describe(mode: str, settings: PolicySettings) -> str:
    """Name of a policy with the settings it reads; those of the prior only where they are not the default.

    Examples:
        >>> describe("ucb", PolicySettings(alpha=0.3))
        'ucb(alpha=0.3, estimator=averaged)'
    """
    if mode not in _SHOWN:
        raise ValueError(f"mode: expected one of {tuple(_SHOWN)}, got {mode!r}")
    values = [(name, getattr(settings, name)) for name in _SHOWN[mode]]
    shown = [f"{n}={_brief(v)}" for n, v in values if n in _ALWAYS_SHOWN or v != _DEFAULTS[n]]
    return f"{mode}({', '.join(shown)})" if shown else mode


def _brief(value: object) -> str:
    if isinstance(value, tuple):
        return ":".join(map(_brief, value))
    return f"{value:g}" if isinstance(value, float) else str(value)

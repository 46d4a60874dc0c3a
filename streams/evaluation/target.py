"""The policies that are asked about: a mode, its settings, and how a slate is picked from its scores.

Invariant: what `parse_target` reads is a policy that a server could be set to, under the names of its settings.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from bandits.policies import DRAWN_MODES, MODES, CandidateSums, Float64, PolicySettings, describe, redraw, score
from bandits.policy_settings import with_pooled_mean

_SLATE_FIELDS: dict[str, Callable[[str], Any]] = {"top_m": int, "explore_share": float}


class SpecError(ValueError):
    """A policy that cannot be understood; the message says what was expected."""


@dataclass(frozen=True)
class TargetPolicy:
    """A fixed policy.

    Attributes:
        mode: name of the mode.
        settings: of the mode.
        top_m: the best so many are permuted uniformly.
        explore_share: probability of a slot being drawn from all candidates.

    Raises:
        ValueError: a field is out of its range; the message names it.
    """

    mode: str
    settings: PolicySettings
    top_m: int = 1
    explore_share: float = 0.0

    def __post_init__(self) -> None:
        if self.top_m < 1:
            raise ValueError(f"top_m: expected 1 or more, got {self.top_m}")
        if not 0 <= self.explore_share <= 1:
            raise ValueError(f"explore_share: expected 0 to 1, got {self.explore_share}")

    @property
    def name(self) -> str:
        """The policy with the settings that it reads."""
        extra = [f"top_m={self.top_m}"] if self.top_m > 1 else []
        extra += [f"explore_share={self.explore_share:g}"] if self.explore_share else []
        described = describe(self.mode, self.settings)
        if not extra:
            return described
        inside = described[described.index("(") + 1 : -1] if "(" in described else ""
        return f"{self.mode}({', '.join([inside, *extra] if inside else extra)})"

    @property
    def exploration(self) -> float:
        """The share of slots drawn from all candidates, as a server applies it."""
        return self.settings.epsilon if self.mode == "epsilon_greedy" else self.explore_share

    @property
    def drawn(self) -> bool:
        """Its scores are random draws."""
        return self.mode in DRAWN_MODES

    def fitted(self, *, impressions: float, rewards: float) -> "TargetPolicy":
        """The same policy with the pooled mean of the parameters, unless it was given one."""
        if self.mode != "randomized_ucb" or self.settings.pooled_mean != PolicySettings.pooled_mean:
            return self
        return replace(self, settings=with_pooled_mean(self.settings, impressions=impressions, rewards=rewards))

    def scores(self, sums: CandidateSums, *, draws: int, seed: int) -> Float64:
        """Scores of n candidates, float64 of shape (draws, n); (1, n) where nothing is drawn."""
        if self.drawn:
            return redraw(self.mode, sums, self.settings, seed, draws)
        return score(self.mode, sums, self.settings, seed).score[None]


def parse_target(text: str) -> TargetPolicy:
    """A policy from `mode` or `mode:name=value,name=value`.

    Args:
        text: names are those of `PolicySettings`, `top_m` and `explore_share`; beta_prior is written "a:b".

    Raises:
        SpecError: naming what is wrong.

    Examples:
        >>> parse_target("ucb:alpha=0.5,top_m=3").name
        'ucb(alpha=0.5, estimator=averaged, top_m=3)'
    """
    mode, _, rest = text.partition(":")
    if mode not in MODES:
        raise SpecError(f'policy "{text}": mode: expected one of {", ".join(MODES)}, got "{mode}"')
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise SpecError(f'policy "{text}": expected name=value, got "{part}"')
        given[name.strip()] = value.strip()
    try:
        slate = {
            name: _converted(name, given.pop(name), kind) for name, kind in _SLATE_FIELDS.items() if name in given
        }
        settings = PolicySettings(**{name: _value(name, value) for name, value in given.items()})
        return TargetPolicy(mode, settings, **slate)
    except ValueError as error:
        raise SpecError(f'policy "{text}": {error}') from None


def _value(name: str, text: str) -> Any:
    defaults = {field.name: field.default for field in fields(PolicySettings)}
    if name not in defaults:
        known = ", ".join([*defaults, *_SLATE_FIELDS])
        raise ValueError(f'expected one of {known}, got "{name}"')
    default = defaults[name]
    if isinstance(default, tuple):
        return tuple(_converted(name, part, float) for part in text.split(":"))
    return text if isinstance(default, str) else _converted(name, text, type(default))


def _converted(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f'{name}: expected a number, got "{text}"') from None

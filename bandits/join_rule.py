"""The reward rule: when a click counts, and what it is worth."""

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bandits.hashing import hash_strings
from bandits.reward_rule import AGGREGATIONS, Aggregation, Int64, KindRule, RewardRule

Int32 = npt.NDArray[np.int32]

_HOUR_MS = 3_600_000
_UNIT = 1 << 15
# Of the first release: they are always written.
_FIRST_FIELDS = {
    "window_ms",
    "max_delay_ms",
    "max_skew_ms",
    "kind_weights",
    "reward_cap",
    "max_pending_rows",
    "max_waiting_clicks",
}
Resolution = Literal["immediate", "at_close"]
MAX_GAMMAS = 5_000
MAX_SURFACES = 64
MIN_HALF_LIFE_MS = 60_000
MAX_HALF_LIFE_MS = 10_000 * 24 * _HOUR_MS
MAX_REWARD_CAP = 65_536.0  # a reward in fixed point fits 32 bits, and its products with x leave headroom in 63


@dataclass(frozen=True)
class JoinRule:
    """When a click counts, and what it is worth.

    Attributes:
        window_ms: attribution window: a click counts if it happened at most this long after its impression.
        max_delay_ms: how old an event may be when it reaches the source log; older ones are late.
        max_skew_ms: how far clocks may disagree: an event may lie this far in the future, and a click this far
            before its impression.
        kind_weights: weight of each declared kind of reaction; others are refused.
        kind_caps: a reaction of the kind, weighted, and the value of the kind on a row are clipped to it; kinds
            that are not named have `reward_cap`.
        kind_aggregations: what several reactions of the kind to one shown item amount to: the "first" of them,
            their "sum" or their "max"; "first" for kinds that are not named.
        across_kinds: what the values of several kinds on one shown item amount to; with "first" the kind that came
            first keeps the row.
        resolution: "immediate": an impression counts at once, and its reward when it comes; "at_close": both when
            the window has closed, `window_ms` after the impression was ingested, and until then the impression is
            in flight. What counts and comes later still is added when it comes.
        position_gammas: probability that the slot at each position is looked at, 0 < gamma <= 1, the top first; the
            last holds for all positions below. Empty = 1 everywhere.
        half_life_ms: what was shown this much earlier counts half as much; 0 = nothing is forgotten.
        surfaces: impressions of these alone are learned from, "" = of those that name none; empty = all. Others are
            passed over, and so are the clicks on them; both are counted.
        reward_cap: rewards are clipped to [0, reward_cap] after weighting, and so is the total of a shown item;
            at most MAX_REWARD_CAP.
        max_pending_rows: impressions kept for clicks to come; the oldest go first.
        max_waiting_clicks: clicks kept for their impression to come; the oldest go first. A click whose impression
            came holds its place until no older one waits.

    Raises:
        ValueError: a number is out of range, or a kind is not declared.
    """

    window_ms: int = _HOUR_MS
    max_delay_ms: int = _HOUR_MS
    max_skew_ms: int = 60_000
    kind_weights: dict[str, float] = field(default_factory=lambda: {"click": 1.0})
    reward_cap: float = 1.0
    max_pending_rows: int = 1_000_000
    max_waiting_clicks: int = 100_000
    kind_caps: dict[str, float] = field(default_factory=dict)
    kind_aggregations: dict[str, Aggregation] = field(default_factory=dict)
    across_kinds: Aggregation = "first"
    resolution: Resolution = "immediate"
    position_gammas: tuple[float, ...] = ()
    half_life_ms: int = 0
    surfaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("window_ms", "max_delay_ms", "max_skew_ms", "max_pending_rows", "max_waiting_clicks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 < self.reward_cap <= MAX_REWARD_CAP:
            raise ValueError(f"reward_cap: expected 0 < cap <= {MAX_REWARD_CAP}, got {self.reward_cap}")
        for kind, weight in self.kind_weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f'kind_weights["{kind}"]: expected finite and >= 0, got {weight}')
        for kind, cap in self.kind_caps.items():
            if not 0 < cap <= self.reward_cap:
                raise ValueError(
                    f'kind_caps["{kind}"]: expected 0 < cap <= reward_cap {self.reward_cap}, got {cap}'
                )
        for kind, aggregation in self.kind_aggregations.items():
            _check_aggregation(f'kind_aggregations["{kind}"]', aggregation)
        _check_aggregation("across_kinds", self.across_kinds)
        if self.resolution not in get_args(Resolution):
            raise ValueError(f'resolution: expected "immediate" or "at_close", got "{self.resolution}"')
        object.__setattr__(self, "position_gammas", tuple(self.position_gammas))  # JSON has lists
        if len(self.position_gammas) > MAX_GAMMAS:
            raise ValueError(f"position_gammas: expected at most {MAX_GAMMAS}, got {len(self.position_gammas)}")
        for position, gamma in enumerate(self.position_gammas):
            if not 0 < gamma <= 1:  # false for NaN too
                raise ValueError(f"position_gammas[{position}]: expected 0 < gamma <= 1, got {gamma}")
        if self.half_life_ms and not MIN_HALF_LIFE_MS <= self.half_life_ms <= MAX_HALF_LIFE_MS:
            raise ValueError(
                f"half_life_ms: expected 0 or {MIN_HALF_LIFE_MS} to {MAX_HALF_LIFE_MS}, got {self.half_life_ms}"
            )
        object.__setattr__(self, "surfaces", tuple(self.surfaces))
        if len(self.surfaces) > MAX_SURFACES or len(set(self.surfaces)) < len(self.surfaces):
            given = ", ".join(f'"{surface}"' for surface in self.surfaces)
            raise ValueError(f"surfaces: expected at most {MAX_SURFACES} distinct names, got {given}")
        for name in ("kind_caps", "kind_aggregations"):
            for kind in getattr(self, name):
                if kind not in self.kind_weights:
                    declared = ", ".join(f'"{known}"' for known in sorted(self.kind_weights))
                    raise ValueError(f'{name}: expected kinds of kind_weights ({declared}), got "{kind}"')

    @property
    def row_retention_ms(self) -> int:
        """How long a row must be kept so that no click which could still count, nor a repeat, misses it."""
        return self.window_ms + self.max_delay_ms + 2 * self.max_skew_ms

    @property
    def click_retention_ms(self) -> int:
        """How long a click must be kept so that it does not miss an impression that it counts for."""
        return self.max_delay_ms + 2 * self.max_skew_ms

    def cap_of(self, kind: str) -> float:
        """The most that a reaction of a kind is worth."""
        return self.kind_caps.get(kind, self.reward_cap)

    @property
    def several_count(self) -> bool:
        """Whether more than the first reaction to a shown item may count."""
        return self.across_kinds != "first" or any(rule != "first" for rule in self.kind_aggregations.values())

    @property
    def at_close(self) -> bool:
        """Whether impressions are in flight until their window closes."""
        return self.resolution == "at_close"

    @property
    def extends_facts(self) -> bool:
        """Whether facts open and close impressions, or have positions or an age."""
        return self.at_close or bool(self.position_gammas) or self.half_life_ms > 0

    @property
    def keeps_rewards(self) -> bool:
        """Whether a row must know what it has earned."""
        return self.at_close or self.several_count

    def gammas(self, position: Int32) -> Int32:
        """Gamma of each position, unit 2^-15, at least 1; int32 of the same shape."""
        table = np.maximum(np.rint(np.array(self.position_gammas or (1.0,)) * _UNIT), 1).astype(np.int32)
        gammas: Int32 = table[np.minimum(position, len(table) - 1)]
        return gammas

    @cached_property
    def rewards(self) -> RewardRule:
        """How the reactions to a row make its reward, in fixed point."""
        kinds = list(self.kind_weights)
        rules = [
            KindRule(self.kind_aggregations.get(kind, "first"), round(self.cap_of(kind) * _UNIT)) for kind in kinds
        ]
        cap = round(self.reward_cap * _UNIT)
        return RewardRule(dict(zip(kind_numbers(kinds).tolist(), rules, strict=True)), self.across_kinds, cap)

    def as_dict(self) -> dict[str, Any]:
        """What `JoinRule(**...)` makes this rule of; what the first release did not have only where it is set."""
        default = JoinRule()
        later = set(vars(default)) - _FIRST_FIELDS
        return {name: v for name, v in asdict(self).items() if name not in later or v != getattr(default, name)}


def kind_numbers(kinds: list[str]) -> Int64:
    """What kinds of reactions are told apart by in columns: int64 hashes of their names."""
    return hash_strings(kinds)[:, 0].view(np.int64)


def _check_aggregation(name: str, aggregation: str) -> None:
    if aggregation not in AGGREGATIONS:
        expected = ", ".join(f'"{known}"' for known in AGGREGATIONS)
        raise ValueError(f'{name}: expected one of {expected}, got "{aggregation}"')

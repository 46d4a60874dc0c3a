"""The reward rule: when a click counts, and what it is worth."""

import math
from dataclasses import dataclass, field

_HOUR_MS = 3_600_000
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
        reward_cap: rewards are clipped to [0, reward_cap] after weighting; at most MAX_REWARD_CAP.
        max_pending_rows: impressions kept for clicks to come; the oldest go first.
        max_waiting_clicks: clicks kept for their impression to come; the oldest go first. A click whose impression
            came holds its place until no older one waits.

    Raises:
        ValueError: a number is out of range.
    """

    window_ms: int = _HOUR_MS
    max_delay_ms: int = _HOUR_MS
    max_skew_ms: int = 60_000
    kind_weights: dict[str, float] = field(default_factory=lambda: {"click": 1.0})
    reward_cap: float = 1.0
    max_pending_rows: int = 1_000_000
    max_waiting_clicks: int = 100_000

    def __post_init__(self) -> None:
        for name in ("window_ms", "max_delay_ms", "max_skew_ms", "max_pending_rows", "max_waiting_clicks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 < self.reward_cap <= MAX_REWARD_CAP:
            raise ValueError(f"reward_cap: expected 0 < cap <= {MAX_REWARD_CAP}, got {self.reward_cap}")
        for kind, weight in self.kind_weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f'kind_weights["{kind}"]: expected finite and >= 0, got {weight}')

    @property
    def row_retention_ms(self) -> int:
        """How long a row must be kept so that no click which could still count, nor a repeat, misses it."""
        return self.window_ms + self.max_delay_ms + 2 * self.max_skew_ms

    @property
    def click_retention_ms(self) -> int:
        """How long a click must be kept so that it does not miss an impression that it counts for."""
        return self.max_delay_ms + 2 * self.max_skew_ms

"""Reward rules: what several reactions to one shown item amount to, in exact fixed point.

Invariants: the total of a row never falls and never exceeds the cap; for `sum` and `max` it does not depend on the
order of the reactions, for `first` on the order of their log alone. Nothing here is rounded: values are integers.

Two steps. Reactions of one kind are aggregated to the value of that kind (its own aggregation and cap); the values
of the kinds are combined to the total of the row (`across_kinds` and the cap of the rule).
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Aggregation = Literal["first", "sum", "max"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)

COUNTED, REPEATED, ABSORBED = 0, 1, 2
MAX_SUMMED_REACTIONS = 100  # that one row remembers, so that a robot cannot fill the memory

UNKNOWN_KIND = 0  # of clicks that were taken while nothing had to be remembered


@dataclass(frozen=True)
class KindRule:
    """How reactions of one kind on one row are aggregated, and their cap, unit 2^-15."""

    aggregation: Aggregation
    cap: int


@dataclass(frozen=True)
class RewardRule:
    """How the reactions to a row make its reward.

    Attributes:
        kinds: by hash of the kind's name.
        across_kinds: how the values of kinds are combined; with "first" the first kind keeps the row.
        cap: of the total, unit 2^-15.
    """

    kinds: dict[int, KindRule]
    across_kinds: Aggregation
    cap: int


@dataclass
class RowReward:
    """What a row has earned.

    Attributes:
        total: unit 2^-15.
        kinds: value of each kind, by hash of its name.
        seen: identities of the summed reactions.
    """

    total: int = 0
    kinds: dict[int, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def copy(self) -> "RowReward":
        """An independent copy."""
        return RowReward(self.total, dict(self.kinds), set(self.seen))


@dataclass(frozen=True, eq=False)
class RewardMoves:
    """What some reactions do to the rewards of their rows; columns of shape (n,), in the order of the reactions.

    Attributes:
        verdict: int8, COUNTED, REPEATED (the same reaction again, or the row takes no further one) or ABSORBED
            (below the maximum, or beyond a cap: it adds nothing and is not remembered).
        delta: int64, what the total of the row gains, unit 2^-15.
        value: int64, the value of the kind after it, where it counted.
        total: int64, the total of the row after it, where it counted.
    """

    verdict: Int8
    delta: Int64
    value: Int64
    total: Int64


class RewardBook:
    """Rewards of the rows that may still get more, by number of the row."""

    def __init__(self) -> None:
        self._rows: dict[int, RowReward] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def total(self, row: int) -> int:
        """What a row has earned, unit 2^-15."""
        entry = self._rows.get(row)
        return entry.total if entry else 0

    def knows(self, row: Int64) -> npt.NDArray[np.bool_]:
        """Where a reaction of a row has counted, bool of the same shape."""
        return np.fromiter(map(self._rows.__contains__, row.tolist()), np.bool_, len(row))

    def judge(self, rule: RewardRule, row: Int64, kind: Int64, identity: Int64, value: Int64) -> RewardMoves:
        """What reactions would do, one after the other; the book is not changed.

        Args:
            rule: the rule.
            row: int64 of shape (n,), numbers of rows.
            kind: int64 of shape (n,), hashes of the kinds' names.
            identity: int64 of shape (n,): equal ones on a row are the same reaction of the same kind, sent again;
                only sums need it.
            value: int64 of shape (n,), what each is worth, unit 2^-15.
        """
        drafts: dict[int, RowReward] = {}
        moves: list[tuple[int, int, int, int]] = []
        for number, *reaction in zip(*(c.tolist() for c in (row, kind, identity, value)), strict=True):
            draft = drafts.get(number)
            if draft is None:
                entry = self._rows.get(number)
                draft = drafts[number] = entry.copy() if entry else RowReward()
            moves.append(_move(rule, draft, *reaction))
        columns = np.array(moves, np.int64).reshape(-1, 4).T
        return RewardMoves(columns[0].astype(np.int8), columns[1], columns[2], columns[3])

    def take(self, row: Int64, kind: Int64, identity: Int64, value: Int64, total: Int64, *, first_row: int) -> None:
        """Take over the reactions that counted; rows below `first_row` are gone."""
        for number, *counted in zip(*(c.tolist() for c in (row, kind, identity, value, total)), strict=True):
            if number >= first_row:
                entry = self._rows.setdefault(number, RowReward())
                _take(entry, *counted)

    def forget(self, row: int) -> None:
        """A row is gone."""
        self._rows.pop(row, None)


def _move(rule: RewardRule, row: RowReward, kind: int, identity: int, value: int) -> tuple[int, int, int, int]:
    """Verdict, gain, value of the kind, total; the row takes it over if it counts."""
    of_kind = rule.kinds.get(kind) or KindRule("first", rule.cap)
    before = row.kinds.get(kind)
    other = rule.across_kinds == "first" and bool(row.kinds) and before is None
    if other or (before is not None and of_kind.aggregation == "first"):
        return REPEATED, 0, 0, 0
    summed = of_kind.aggregation == "sum"
    if summed and identity in row.seen:
        return REPEATED, 0, 0, 0
    after = min((before or 0) + value if summed else max(before or 0, value), of_kind.cap)
    full = summed and len(row.seen) >= MAX_SUMMED_REACTIONS
    if before is not None and (after <= before or full):
        return ABSORBED, 0, 0, 0
    values = [*(row.kinds | {kind: after}).values()]
    total = min(sum(values) if rule.across_kinds == "sum" else max(values), rule.cap)
    total = max(total, row.total)  # a rule with lower caps takes nothing back
    gain = total - row.total
    _take(row, kind, identity if summed else 0, after, total)
    return COUNTED, gain, after, total


def _take(row: RowReward, kind: int, identity: int, value: int, total: int) -> None:
    row.kinds[kind] = value
    row.total = total
    if identity:
        row.seen.add(identity)

"""What one micro-batch changes in the joiner: the unit that is stored, and applied again when restoring."""

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from bandits.texts import Pairs

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass
class Tally:
    """Counts since the beginning. Every consumed row or click is in exactly one of them, or still waiting.

    Attributes:
        impressions_accepted: shown items that count.
        impressions_duplicate: (request, item) seen before.
        impressions_late: older than the accepted delay when ingested.
        impressions_dead: refused, a dead letter was written.
        clicks_joined: clicks that count.
        clicks_duplicate: a further click on a row that has its reward, or the same reaction again.
        clicks_absorbed: a further reaction that adds nothing: below the maximum, or beyond a cap.
        clicks_late: outside the attribution window, or older than the accepted delay when ingested.
        clicks_unmatched: no impression came while the click waited.
        clicks_dead: refused, a dead letter was written.
        impressions_other_surface: shown items of surfaces that are not learned from, and repeats of them.
        clicks_other_surface: clicks on those.
        rows_evicted: accepted impressions dropped early because too many were pending (not a category of its own).
    """

    impressions_accepted: int = 0
    impressions_duplicate: int = 0
    impressions_late: int = 0
    impressions_dead: int = 0
    clicks_joined: int = 0
    clicks_duplicate: int = 0
    clicks_late: int = 0
    clicks_unmatched: int = 0
    clicks_dead: int = 0
    rows_evicted: int = 0
    clicks_absorbed: int = 0
    impressions_other_surface: int = 0
    clicks_other_surface: int = 0

    def copy(self) -> "Tally":
        """An independent copy."""
        return Tally(**vars(self))

    def as_dict(self) -> dict[str, int]:
        """Counts by name."""
        return dict(vars(self))

    @classmethod
    def names(cls) -> list[str]:
        """Names of the counts, in a fixed order."""
        return [entry.name for entry in fields(cls)]


@dataclass(frozen=True)
class Dead:
    """An event that can never count: its place in the source log, and why."""

    topic: int
    offset: int
    index: int
    reason: str


def _none() -> Int64:
    return np.empty(0, np.int64)


def _no_int32() -> Int32:
    return np.empty(0, np.int32)


def _no_bool() -> Bool:
    return np.empty(0, np.bool_)


@dataclass
class JoinerChange:
    """Columns of one micro-batch. Rows, contexts and clicks are numbered for the life of the partition.

    Attributes:
        sequence: number of the change, from 1, without holes.
        clock_ms: ingestion clock after it, Unix milliseconds.
        impressions_position: next impression offset to read.
        clicks_position: next click offset to read.
        tally: counts after it.
        row_start: number of the first new row.
        row_keys: (request_id, item_id) of each new row.
        row_occurred_ms: int64, when each was shown.
        row_ingested_ms: int64, when the log took each.
        row_context: int64, number of each row's context.
        context_start: number of the first new context.
        context_ends: int64, as in `Impressions`.
        context_cluster: int32.
        context_x: int64, unit 2^-15.
        rewarded: int64, rows that have got a reward, one entry a click that counted.
        click_start: number of the first click that begins to wait.
        click_keys: (request_id, item_id) of each such click.
        click_occurred_ms: int64.
        click_ingested_ms: int64.
        click_reward: int64, unit 2^-15.
        click_offset: int64.
        click_index: int32.
        resolved: int64, waiting clicks that were decided.
        dead: events refused for ever.
        click_kind: int64, what the kind of each waiting click is told apart by; empty where one click counts.
        click_identity: int64, equal for the same reaction sent again; likewise.
        reward_row: int64, row of each reaction that counted, in order; empty where no rewards are kept.
        reward_kind, reward_identity: int64 of each such reaction.
        reward_value: int64, the value of its kind on the row after it, unit 2^-15.
        reward_total: int64, the reward of the row after it, unit 2^-15.
        row_gamma: int32, unit 2^-15; empty where positions do not matter.
        row_offset: int64, place of each new row in the source log; empty where impressions are not in flight.
        row_index: int32, likewise.
        row_passed: bool, True for a row of a surface that is not learned from; empty where all are.
        closed_before: rows below this number are not in flight.
        first_row: rows below are forgotten.
        first_click: waiting clicks below are forgotten.
        needs_row: the change is needed while rows below this number are alive.
        needs_click: likewise for clicks.
        keep_from: changes with a lower sequence are no longer needed to restore.
    """

    sequence: int
    clock_ms: int
    impressions_position: int
    clicks_position: int
    tally: Tally
    row_start: int
    row_keys: Pairs
    row_occurred_ms: Int64
    row_ingested_ms: Int64
    row_context: Int64
    context_start: int
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    rewarded: Int64
    click_start: int
    click_keys: Pairs
    click_occurred_ms: Int64
    click_ingested_ms: Int64
    click_reward: Int64
    click_offset: Int64
    click_index: Int32
    resolved: Int64
    dead: list[Dead]
    click_kind: Int64 = field(default_factory=_none)
    click_identity: Int64 = field(default_factory=_none)
    reward_row: Int64 = field(default_factory=_none)
    reward_kind: Int64 = field(default_factory=_none)
    reward_identity: Int64 = field(default_factory=_none)
    reward_value: Int64 = field(default_factory=_none)
    reward_total: Int64 = field(default_factory=_none)
    row_gamma: Int32 = field(default_factory=_no_int32)
    row_offset: Int64 = field(default_factory=_none)
    row_index: Int32 = field(default_factory=_no_int32)
    row_passed: Bool = field(default_factory=_no_bool)
    closed_before: int = 0
    first_row: int = 0
    first_click: int = 0
    needs_row: int = 0
    needs_click: int = 0
    keep_from: int = 0

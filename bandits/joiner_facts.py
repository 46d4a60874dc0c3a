"""The facts of a micro-batch: what the edges must learn from rows, reactions and windows that close.

Invariants: an impression adds to the sums once: at once, or when its window closes; a reward likewise, with the
gamma and the time of its impression. A row in flight gives no other fact: its rewards come with its closing, those
that count later on their own. So once nothing is in flight, the sums are those of impressions that count at once.
"""

from dataclasses import dataclass

import numpy as np

from bandits.arena import Arena
from bandits.events import Impressions
from bandits.joiner_batch import Bool, Int32, NewRows, Reactions
from bandits.joiner_change import JoinerChange
from bandits.joiner_state import JoinerState
from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC, Outcomes
from bandits.reward_rule import Int64
from bandits.sums import UNIT
from bandits.texts import Texts, distinct_of


@dataclass(frozen=True, eq=False)
class _Facts:
    """Facts of one kind, by number of their row."""

    row: Int64
    item_ids: Texts
    impression: int
    reward: Int64
    opening: int
    topic: int
    offset: Int64
    index: Int32


def make_outcomes(
    state: JoinerState, impressions: Impressions, rows: NewRows, reactions: Reactions, change: JoinerChange
) -> Outcomes:
    """Facts of a micro-batch.

    Args:
        state: before the change.
        impressions: the slates of the batch.
        rows: new ones.
        reactions: judged.
        change: what follows from both.
    """
    at_close = state.rule.at_close
    groups = [_shown(impressions, rows, change, at_close=at_close), _rewards(state, reactions, change)]
    closing = state.closing_rows(change)
    if len(closing):
        groups.append(_closings(state, closing, change))
    in_flight = at_close or len(closing) > 0
    return _columns(state, groups, change, in_flight=in_flight)


def _shown(impressions: Impressions, rows: NewRows, change: JoinerChange, *, at_close: bool) -> _Facts:
    row = np.arange(change.row_start, change.row_start + len(rows.keys))
    slate, keys = rows.slate, rows.keys
    if len(rows.passed):
        own = np.flatnonzero(~rows.passed)
        row, slate, keys = row[own], slate[own], keys.take(own)
    return _Facts(
        row=row,
        item_ids=keys.item,
        impression=int(not at_close),
        reward=np.zeros(len(keys), np.int64),
        opening=int(at_close),
        topic=IMPRESSIONS_TOPIC,
        offset=impressions.offset[slate],
        index=impressions.index[slate],
    )


def _rewards(state: JoinerState, reactions: Reactions, change: JoinerChange) -> _Facts:
    at = np.flatnonzero(reactions.joined)
    if state.rule.keeps_rewards:
        # What a row earns in flight comes with its closing.
        row, closing = reactions.row[at], state.closing_rows(change)
        apart = ~np.isin(row, closing)
        if state.rule.at_close:
            apart &= row < change.closed_before
        at = at[apart]
    return _Facts(
        row=reactions.row[at],
        item_ids=reactions.keys.item.take(at),
        impression=0,
        reward=reactions.reward[at],
        opening=0,
        topic=CLICKS_TOPIC,
        offset=reactions.offset[at],
        index=reactions.index[at],
    )


def _closings(state: JoinerState, rows: Int64, change: JoinerChange) -> _Facts:
    reward = state.earned(rows[: np.searchsorted(rows, change.row_start)])
    reward = np.concatenate([reward, np.zeros(len(rows) - len(reward), np.int64)])
    place = np.searchsorted(rows, change.reward_row)
    here = np.flatnonzero(np.isin(change.reward_row, rows))
    reward[place[here]] = change.reward_total[here]  # of several to one row the last one holds
    return _Facts(
        row=rows,
        item_ids=state.items_of(rows, change),
        impression=1,
        reward=reward,
        opening=-1,
        topic=IMPRESSIONS_TOPIC,
        offset=_either(state.in_flight, "offset", rows, change.row_offset, change.row_start),
        index=_either(state.in_flight, "index", rows, change.row_index, change.row_start).astype(np.int32),
    )


def _columns(state: JoinerState, groups: list[_Facts], change: JoinerChange, *, in_flight: bool) -> Outcomes:
    row = np.concatenate([group.row for group in groups])
    context = _either(state.rows, "context", row, change.row_context, change.row_start)
    used, place = _distinct(context, change.context_start, len(change.context_ends))
    ends, cluster, x = state.gather_contexts(used, change)
    item_ids, item = distinct_of([group.item_ids for group in groups])
    rule = state.rule

    def each(values: list[int], dtype: type[np.integer]) -> Int64:
        return np.repeat(np.array(values, dtype), [len(group.row) for group in groups])

    return Outcomes(
        joiner_partition=state.partition,
        sequence=change.sequence,
        impressions_position=change.impressions_position,
        clicks_position=change.clicks_position,
        item_ids=item_ids,
        context_ends=ends,
        context_cluster=cluster,
        context_x=x,
        item=item,
        context=place,
        impressions=each([group.impression for group in groups], np.int64),
        reward=np.concatenate([group.reward for group in groups]),
        cause_topic=each([group.topic for group in groups], np.int32).astype(np.int32, copy=False),
        cause_offset=np.concatenate([group.offset for group in groups]),
        cause_index=np.concatenate([group.index for group in groups]).astype(np.int32, copy=False),
        opening=each([group.opening for group in groups], np.int64) if in_flight else None,
        gamma=_gammas(state, row, change),
        shown_ms=_either(state.rows, "occurred", row, change.row_occurred_ms, change.row_start)
        if rule.half_life_ms
        else None,
        half_life_ms=rule.half_life_ms,
        clock_ms=change.clock_ms if in_flight else 0,
        clock_start_ms=state.clock_ms if in_flight else 0,
    )


def _gammas(state: JoinerState, row: Int64, change: JoinerChange) -> Int64 | None:
    """None where all are 1: rows keep the gamma that was in force when they were shown."""
    if not state.has_gammas and not len(change.row_gamma):
        return None
    gamma = change.row_gamma if len(change.row_gamma) else np.full(len(change.row_keys), UNIT, np.int32)
    column = _either(state.rows, "gamma", row, gamma, change.row_start).astype(np.int64)
    return column if (column != UNIT).any() else None


def _distinct(context: Int64, start: int, added: int) -> tuple[Int64, Int32]:
    """Distinct numbers of contexts, ascending, and the place of each among them; most are those from `start` on."""
    is_new = context >= start
    named = np.zeros(added, np.bool_)
    if is_new.all():
        named[context - start] = True
        used: Int64 = start + np.flatnonzero(named)
        return used, (np.cumsum(named, dtype=np.int32) - 1)[context - start]
    new = context[is_new] - start
    named[new] = True
    old, old_place = np.unique(context[~is_new], return_inverse=True)
    place = np.empty(len(context), np.int32)
    place[~is_new] = old_place
    place[is_new] = (np.cumsum(named, dtype=np.int32) + (len(old) - 1))[new]
    return np.concatenate([old, start + np.flatnonzero(named)]), place


def _either(arena: Arena, name: str, row: Int64, new: Int64 | Int32, start: int) -> Int64:
    """A column of rows, those below `start` from the arena and the others from what the batch adds."""
    old: Bool = row < start
    if not old.any():
        return new[row - start].astype(np.int64, copy=False)
    result = np.empty(len(row), np.int64)
    result[old] = arena.take(name, row[old])
    result[~old] = new[row[~old] - start]
    return result

"""The joiner: matches clicks with impressions and says what each edge must learn, each fact once.

Invariants:
- The unit is (request_id, item_id): its impression counts once, its reward once, however often they are sent.
- Whether a pair joins depends on the pair alone (ids and times), not on which of the two came first nor on how
  records were batched: a row outlives every click that could still be in its window, and the other way round.
  Only the capacity limits, when they bite, may cut that short; they take the oldest first and count it.
- `join` reads the state and returns what must change; `apply` changes it. Nothing is half done in between, and
  restoring is the same `apply` over the stored changes.
- The clock is the ingestion time of the source log, never an event's own time: no record can close the window
  for another.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.arena import Arena, Int64, ranges
from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from bandits.joiner_change import Dead, JoinerChange, Tally
from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC, Outcomes

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Key = tuple[str, str]  # (request_id, item_id)


class Joiner:
    """State of one joiner partition: impressions that may still be clicked, clicks that may still be matched."""

    def __init__(self, rule: JoinRule, *, partition: int = 0) -> None:
        self.rule = rule
        self.partition = partition
        self.sequence = 0
        self.tally = Tally()
        self.clock_ms = 0
        self.impressions_position = 0
        self.clicks_position = 0
        self._row: dict[Key, int] = {}
        self._keys: deque[Key] = deque()
        self._rows = Arena(occurred=np.int64, ingested=np.int64, context=np.int64, rewarded=np.bool_)
        self._contexts = Arena(start=np.int64, size=np.int64)
        self._elements = Arena(cluster=np.int32, x=np.int64)
        self._waiting: dict[Key, list[int]] = {}
        self._clicks = Arena(
            occurred=np.int64, ingested=np.int64, reward=np.int64, offset=np.int64, index=np.int32, open=np.bool_
        )
        self._click_keys: deque[Key] = deque()
        self._needs: deque[tuple[int, int, int]] = deque()  # (sequence, rows below, clicks below) of each change

    @property
    def pending_rows(self) -> int:
        """Impressions that may still be clicked."""
        return len(self._rows)

    @property
    def waiting_clicks(self) -> int:
        """Clicks without an impression yet."""
        return int(np.count_nonzero(self._clicks.view("open")))

    def join(self, impressions: Impressions, clicks: Clicks) -> tuple[Outcomes, JoinerChange]:
        """Match a micro-batch against the state.

        Args:
            impressions: slates in the order of their log.
            clicks: clicks in the order of their log.

        Returns:
            The facts to be learned, and the change of the state to be stored with them and then given to `apply`.
        """
        tally = self.tally.copy()
        ends = [int(events.ingested_at_ms[-1]) for events in (impressions, clicks) if len(events)]
        clock_ms = max([self.clock_ms, *ends])
        rows, dead_slates = self._fresh_rows(impressions, tally)
        reactions, dead_clicks = self._reactions(clicks, rows, tally)
        change = JoinerChange(
            sequence=self.sequence + 1,
            clock_ms=clock_ms,
            impressions_position=_next(impressions.offset, self.impressions_position),
            clicks_position=_next(clicks.offset, self.clicks_position),
            tally=tally,
            row_start=self._rows.end,
            row_keys=rows.keys,
            row_occurred_ms=rows.occurred_ms,
            row_ingested_ms=rows.ingested_ms,
            row_context=rows.context + self._contexts.end,
            context_start=self._contexts.end,
            context_ends=impressions.context_ends,
            context_cluster=impressions.context_cluster,
            context_x=impressions.context_x,
            rewarded=reactions.row[reactions.joined],
            click_start=self._clicks.end,
            click_keys=reactions.wait_keys,
            click_occurred_ms=reactions.occurred_ms[reactions.wait],
            click_ingested_ms=reactions.ingested_ms[reactions.wait],
            click_reward=reactions.reward[reactions.wait],
            click_offset=reactions.offset[reactions.wait],
            click_index=reactions.index[reactions.wait],
            resolved=reactions.resolved,
            dead=[*dead_slates, *dead_clicks],
        )
        self._plan_eviction(change)
        return self._outcomes(impressions, rows, reactions, change), change

    def apply(self, change: JoinerChange) -> None:
        """Take over a change, fresh from `join` or read back from the store in order of sequence."""
        if not len(self._rows):
            self._rows.start_at(change.row_start)
        if not len(self._contexts):
            self._contexts.start_at(change.context_start)
        if not len(self._clicks):
            self._clicks.start_at(change.click_start)
        self._take_rows(change)
        self._take_clicks(change)
        self._evict(change)
        self.sequence = change.sequence
        self.clock_ms = change.clock_ms
        self.impressions_position = change.impressions_position
        self.clicks_position = change.clicks_position
        self.tally = change.tally
        self._needs.append((change.sequence, change.needs_row, change.needs_click))
        while self._needs and self._needs[0][0] < change.keep_from:
            self._needs.popleft()

    # --- join: what is new -------------------------------------------------------------------------------------

    def _fresh_rows(self, impressions: Impressions, tally: Tally) -> tuple["_Rows", list[Dead]]:
        sizes = np.diff(impressions.item_ends, prepend=0)
        occurred = np.where(impressions.occurred_at_ms == 0, impressions.ingested_at_ms, impressions.occurred_at_ms)
        late, future = self._off_time(occurred, impressions.ingested_at_ms)
        slate = np.repeat(np.arange(len(impressions)), sizes)
        requests = np.array(impressions.request_ids, dtype=object)[slate].tolist()
        keys: list[Key] = list(zip(requests, impressions.item_ids, strict=True))
        on_time = ~(late | future)[slate]
        fresh = on_time & self._first_seen(keys, on_time)
        tally.impressions_late += int(sizes[late].sum())
        tally.impressions_dead += int(sizes[future].sum())
        tally.impressions_duplicate += int(np.count_nonzero(on_time & ~fresh))
        tally.impressions_accepted += int(np.count_nonzero(fresh))
        at = np.flatnonzero(fresh)
        rows = _Rows(
            keys=keys if len(at) == len(keys) else [keys[i] for i in at.tolist()],
            slate=slate[at],
            occurred_ms=occurred[slate[at]],
            ingested_ms=impressions.ingested_at_ms[slate[at]],
            context=slate[at],
        )
        return rows, self._dead(IMPRESSIONS_TOPIC, impressions, future)

    def _first_seen(self, keys: list[Key], on_time: Bool) -> Bool:
        """True where a key is in no earlier batch and not earlier among the timely ones of this batch."""
        known = np.fromiter(map(self._row.__contains__, keys), np.bool_, len(keys))
        first: dict[Key, int] = {}
        if on_time.all():
            owner = np.fromiter(map(first.setdefault, keys, count()), np.int64, len(keys))
            fresh: Bool = ~known & (owner == np.arange(len(keys)))
            return fresh
        at = np.flatnonzero(on_time).tolist()
        result = np.zeros(len(keys), np.bool_)
        owner = np.fromiter((first.setdefault(keys[i], i) for i in at), np.int64, len(at))
        result[at] = ~known[at] & (owner == at)
        return result

    def _reactions(self, clicks: Clicks, rows: "_Rows", tally: Tally) -> tuple["_Reactions", list[Dead]]:
        """Clicks to be decided now: those that waited for a row of this batch, then the new ones."""
        resolved = self._woken(rows.keys)
        waited = [self._click_keys[number - self._clicks.first] for number in resolved.tolist()]
        occurred = np.where(clicks.occurred_at_ms == 0, clicks.ingested_at_ms, clicks.occurred_at_ms)
        late, future = self._off_time(occurred, clicks.ingested_at_ms)
        tally.clicks_late += int(np.count_nonzero(late))
        tally.clicks_dead += int(np.count_nonzero(future))
        timely = np.flatnonzero(~(late | future))
        new_keys: list[Key] = list(zip(clicks.request_ids, clicks.item_ids, strict=True))
        keys = waited + (new_keys if len(timely) == len(new_keys) else [new_keys[i] for i in timely.tolist()])

        def both(name: str, new: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([self._clicks.take(name, resolved), new[timely]])

        reactions = _Reactions(
            keys=keys,
            row=self._find_rows(keys, rows.keys),
            occurred_ms=both("occurred", occurred),
            ingested_ms=both("ingested", clicks.ingested_at_ms),
            reward=both("reward", clicks.reward),
            offset=both("offset", clicks.offset),
            index=both("index", clicks.index),
            resolved=resolved,
        )
        self._judge(reactions, rows, tally)
        return reactions, self._dead(CLICKS_TOPIC, clicks, future)

    def _judge(self, reactions: "_Reactions", rows: "_Rows", tally: Tally) -> None:
        found = reactions.row >= 0
        shown_ms = np.zeros(len(found), np.int64)
        rewarded = np.zeros(len(found), np.bool_)
        old = found & (reactions.row < self._rows.end)
        shown_ms[old] = self._rows.take("occurred", reactions.row[old])
        rewarded[old] = self._rows.take("rewarded", reactions.row[old])
        new = found & ~old
        shown_ms[new] = rows.occurred_ms[reactions.row[new] - self._rows.end]
        delay = reactions.occurred_ms - shown_ms
        inside = found & (delay <= self.rule.window_ms) & (delay >= -self.rule.max_skew_ms)
        counts = inside & ~rewarded
        at = np.flatnonzero(counts)
        # The first click of a row counts: np.unique returns the first of equals.
        joined = np.zeros(len(found), np.bool_)
        joined[at[np.unique(reactions.row[at], return_index=True)[1]]] = True
        reactions.joined, reactions.wait = joined, ~found
        reactions.wait_keys = [reactions.keys[i] for i in np.flatnonzero(~found).tolist()]
        tally.clicks_joined += int(np.count_nonzero(joined))
        tally.clicks_duplicate += int(np.count_nonzero(inside & ~joined))
        tally.clicks_late += int(np.count_nonzero(found & ~inside))

    def _find_rows(self, keys: list[Key], fresh: list[Key]) -> Int64:
        number = dict(zip(fresh, count(self._rows.end), strict=False))
        found = map(self._row.get, keys, map(number.get, keys, repeat(-1)))
        return np.fromiter(found, np.int64, len(keys))

    def _woken(self, fresh: Iterable[Key]) -> Int64:
        """Numbers of the clicks that waited for one of these rows, in order."""
        if not self._waiting:
            return np.empty(0, np.int64)
        numbers = [number for key in fresh if key in self._waiting for number in self._waiting[key]]
        return np.sort(np.array(numbers, np.int64))

    def _off_time(self, occurred: Int64, ingested: Int64) -> tuple[Bool, Bool]:
        return ingested - occurred > self.rule.max_delay_ms, occurred - ingested > self.rule.max_skew_ms

    def _dead(self, topic: int, events: Impressions | Clicks, future: Bool) -> list[Dead]:
        reason = f"occurred_at_ms: expected at most {self.rule.max_skew_ms} ms after ingestion"
        at = np.flatnonzero(future).tolist()
        got = (events.occurred_at_ms - events.ingested_at_ms)[future].tolist()
        places = zip(at, got, strict=True)
        return [Dead(topic, int(events.offset[i]), int(events.index[i]), f"{reason}, got {ms}") for i, ms in places]

    # --- join: eviction and facts ------------------------------------------------------------------------------

    def _plan_eviction(self, change: JoinerChange) -> None:
        rule, n_new = self.rule, len(change.row_keys)
        expired = _older(
            self._rows.view("ingested"), change.row_ingested_ms, change.clock_ms - rule.row_retention_ms
        )
        crowded = max(len(self._rows) + n_new - rule.max_pending_rows, 0)
        first_row = self._rows.first if len(self._rows) else change.row_start
        change.first_row = first_row + max(expired, crowded)
        change.tally.rows_evicted += max(crowded - expired, 0)

        old, new = self._clicks.view("ingested"), change.click_ingested_ms
        expired = _older(old, new, change.clock_ms - rule.click_retention_ms)
        gone = max(expired, len(old) + len(new) - rule.max_waiting_clicks, 0)
        first_click = self._clicks.first if len(self._clicks) else change.click_start
        change.first_click = first_click + gone
        still_open = self._clicks.view("open")[:gone].copy()
        resolved = change.resolved - first_click
        still_open[resolved[resolved < gone]] = False
        change.tally.clicks_unmatched += int(np.count_nonzero(still_open)) + max(gone - len(old), 0)

        # A change is needed to restore while anything that it adds or marks is alive.
        new_row = change.row_start + n_new if n_new else 0
        change.needs_row = max(new_row, int(change.rewarded.max(initial=-1)) + 1)
        new_click = change.click_start + len(new) if len(new) else 0
        change.needs_click = max(new_click, int(change.resolved.max(initial=-1)) + 1)
        this = (change.sequence, change.needs_row, change.needs_click)
        change.keep_from = next(
            (
                sequence
                for sequence, row, click in chain(self._needs, [this])
                if row > change.first_row or click > change.first_click
            ),
            change.sequence,  # the newest is always kept: it holds the positions
        )

    def _outcomes(
        self, impressions: Impressions, rows: "_Rows", reactions: "_Reactions", change: JoinerChange
    ) -> Outcomes:
        joined = np.flatnonzero(reactions.joined)
        row = reactions.row[joined]
        old = row < self._rows.end
        context = np.empty(len(row), np.int64)
        context[old] = self._rows.take("context", row[old])
        context[~old] = change.row_context[row[~old] - self._rows.end]
        used, place = np.unique(np.concatenate([change.row_context, context]), return_inverse=True)
        ends, cluster, x = self._gather_contexts(used, change)
        names = [key[1] for key in rows.keys] + [reactions.keys[i][1] for i in joined.tolist()]
        number: dict[str, int] = {}
        item = np.fromiter((number.setdefault(name, len(number)) for name in names), np.int32, len(names))
        n_rows, n_joined = len(rows.keys), len(joined)
        return Outcomes(
            joiner_partition=self.partition,
            sequence=change.sequence,
            impressions_position=change.impressions_position,
            clicks_position=change.clicks_position,
            item_ids=list(number),
            context_ends=ends,
            context_cluster=cluster,
            context_x=x,
            item=item,
            context=place.astype(np.int32),
            impressions=np.repeat(np.array([1, 0], np.int64), [n_rows, n_joined]),
            reward=np.concatenate([np.zeros(n_rows, np.int64), reactions.reward[joined]]),
            cause_topic=np.repeat(np.array([IMPRESSIONS_TOPIC, CLICKS_TOPIC], np.int32), [n_rows, n_joined]),
            cause_offset=np.concatenate([impressions.offset[rows.slate], reactions.offset[joined]]),
            cause_index=np.concatenate([impressions.index[rows.slate], reactions.index[joined]]).astype(np.int32),
        )

    def _gather_contexts(self, used: Int64, change: JoinerChange) -> tuple[Int64, Int32, Int64]:
        old, new = used[used < change.context_start], used[used >= change.context_start] - change.context_start
        old_starts, old_sizes = self._contexts.take("start", old), self._contexts.take("size", old)
        new_sizes = np.diff(change.context_ends, prepend=0)[new]
        old_at = ranges(old_starts, old_sizes)
        new_at = ranges(change.context_ends[new] - new_sizes, new_sizes)
        cluster = np.concatenate([self._elements.take("cluster", old_at), change.context_cluster[new_at]])
        x = np.concatenate([self._elements.take("x", old_at), change.context_x[new_at]])
        return np.cumsum(np.concatenate([old_sizes, new_sizes])), cluster.astype(np.int32), x

    # --- apply -------------------------------------------------------------------------------------------------

    def _take_rows(self, change: JoinerChange) -> None:
        self._row.update(zip(change.row_keys, count(change.row_start), strict=False))
        self._keys.extend(change.row_keys)
        unrewarded = np.zeros(len(change.row_keys), np.bool_)
        self._rows.append(
            occurred=change.row_occurred_ms,
            ingested=change.row_ingested_ms,
            context=change.row_context,
            rewarded=unrewarded,
        )
        sizes = np.diff(change.context_ends, prepend=0)
        self._contexts.append(start=self._elements.end + change.context_ends - sizes, size=sizes)
        self._elements.append(cluster=change.context_cluster, x=change.context_x)
        # While restoring, a stored change may mark rows that have expired since: they are gone.
        rewarded = change.rewarded[change.rewarded >= self._rows.first]
        self._rows.view("rewarded")[rewarded - self._rows.first] = True

    def _take_clicks(self, change: JoinerChange) -> None:
        for number, key in zip(count(change.click_start), change.click_keys, strict=False):
            self._waiting.setdefault(key, []).append(number)
        self._click_keys.extend(change.click_keys)
        self._clicks.append(
            occurred=change.click_occurred_ms,
            ingested=change.click_ingested_ms,
            reward=change.click_reward,
            offset=change.click_offset,
            index=change.click_index,
            open=np.ones(len(change.click_keys), np.bool_),
        )
        resolved = change.resolved[change.resolved >= self._clicks.first] - self._clicks.first
        self._clicks.view("open")[resolved] = False
        for at in resolved.tolist():
            self._waiting.pop(self._click_keys[at], None)

    def _evict(self, change: JoinerChange) -> None:
        expired = max(change.first_row - self._rows.first, 0)
        for _ in range(expired):
            self._row.pop(self._keys.popleft(), None)
        self._rows.drop_before(change.first_row)
        kept = int(self._rows.view("context")[0]) if len(self._rows) else self._contexts.end
        self._contexts.drop_before(kept)
        elements = int(self._contexts.view("start")[0]) if len(self._contexts) else self._elements.end
        self._elements.drop_before(elements)
        for number in range(self._clicks.first, change.first_click):
            key = self._click_keys.popleft()
            waiting = self._waiting.get(key)
            if waiting and waiting[0] == number:
                del waiting[0]
                if not waiting:
                    del self._waiting[key]
        self._clicks.drop_before(change.first_click)


@dataclass
class _Rows:
    """Rows of a batch that were never seen before."""

    keys: list[Key]
    slate: Int64
    occurred_ms: Int64
    ingested_ms: Int64
    context: Int64


@dataclass
class _Reactions:
    """Clicks of a batch that are on time, with the number of their row (-1 = none yet)."""

    keys: list[Key]
    row: Int64
    occurred_ms: Int64
    ingested_ms: Int64
    reward: Int64
    offset: Int64
    index: Int32
    resolved: Int64
    joined: Bool = field(default_factory=lambda: np.empty(0, np.bool_))
    wait: Bool = field(default_factory=lambda: np.empty(0, np.bool_))
    wait_keys: list[Key] = field(default_factory=list)


def _older(alive: Int64, new: Int64, than_ms: int) -> int:
    """How many of the ascending times of `alive` and then `new` are below a time."""
    old = int(np.searchsorted(alive, than_ms))
    return old if old < len(alive) else old + int(np.searchsorted(new, than_ms))


def _next(offsets: Int64, position: int) -> int:
    return int(offsets[-1]) + 1 if len(offsets) else position

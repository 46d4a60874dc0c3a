"""State of one joiner partition: impressions that may still be clicked, clicks that may still be matched.

Invariants: only `apply` changes the state; a change is taken over wholly, fresh or while restoring; rows, contexts
and clicks keep their numbers for life, and are forgotten from the front.
"""

from collections import deque
from itertools import chain, count

import numpy as np

from bandits.arena import Arena, ranges
from bandits.hash_filter import HashFilter
from bandits.join_rule import JoinRule
from bandits.joiner_batch import NO_FLAGS, Bool, Int32, Key
from bandits.joiner_change import JoinerChange, Tally
from bandits.reward_rule import Int64, RewardBook
from bandits.row_index import RowIndex
from bandits.sums import UNIT
from bandits.texts import Texts

_NONE = np.empty(0, np.int64)


class JoinerState:
    """What a joiner remembers.

    Args:
        rule: the join rule.
        partition: number of the partition.
    """

    def __init__(self, rule: JoinRule, *, partition: int = 0) -> None:
        self.rule = rule
        self.partition = partition
        self.sequence = 0
        self.tally = Tally()
        self.clock_ms = 0
        self.impressions_position = 0
        self.clicks_position = 0
        self._index = RowIndex()
        self.rows = Arena(
            occurred=np.int64,
            ingested=np.int64,
            context=np.int64,
            gamma=np.int32,
            rewarded=np.bool_,
            passed=np.bool_,
        )
        self._contexts = Arena(start=np.int64, size=np.int64)
        self._elements = Arena(cluster=np.int32, x=np.int32)
        self._waiting: dict[Key, list[int]] = {}
        self._waiting_hashes = HashFilter(np.empty(0, np.uint64))  # so that few rows are looked for among them
        self._clicks = Arena(
            occurred=np.int64,
            ingested=np.int64,
            reward=np.int64,
            kind=np.int64,
            identity=np.int64,
            offset=np.int64,
            index=np.int32,
            hash=np.uint64,
            open=np.bool_,
        )
        self._click_keys: deque[Key] = deque()
        self._book = RewardBook()
        self.in_flight = Arena(offset=np.int64, index=np.int32)  # rows in flight, by number of the row
        self._closed_before = 0
        self.has_gammas = False  # whether a row may have one other than 1
        self.has_passed = False  # whether a row may be of a surface that is not learned from
        self._needs: deque[tuple[int, int, int]] = deque()  # (sequence, rows below, clicks below) of each change

    @property
    def pending_rows(self) -> int:
        """Impressions that may still be clicked."""
        return len(self.rows)

    @property
    def waiting_clicks(self) -> int:
        """Clicks without an impression yet."""
        return int(np.count_nonzero(self._clicks.view("open")))

    @property
    def rows_in_flight(self) -> int:
        """Impressions whose window has not closed; 0 where they count at once."""
        if not self.has_passed:
            return len(self.in_flight)
        rows = np.arange(self.in_flight.first, self.in_flight.end)
        return int(np.count_nonzero(~self.are_passed(rows, NO_FLAGS)))

    @property
    def has_closed(self) -> bool:
        """Whether a window has ever been closed by the clock."""
        return self._closed_before > 0

    @property
    def closes_at_ms(self) -> int | None:
        """The clock at which the next window closes; None if nothing is in flight."""
        if not len(self.in_flight):
            return None
        if not self.rule.at_close:
            return self.clock_ms
        return int(self.rows.take("ingested", np.array([self.in_flight.first]))[0]) + self.rule.window_ms + 1

    def apply(self, change: JoinerChange) -> None:
        """Take over a change, fresh from `join` or read back from the store in order of sequence."""
        if not len(self.rows):
            self.rows.start_at(change.row_start)
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

    # --- apply -------------------------------------------------------------------------------------------------

    def _take_rows(self, change: JoinerChange) -> None:
        self._index.add(change.row_keys, change.row_start)
        self.rows.append(
            occurred=change.row_occurred_ms,
            ingested=change.row_ingested_ms,
            context=change.row_context,
            gamma=change.row_gamma if len(change.row_gamma) else UNIT,
            rewarded=False,
            passed=change.row_passed if len(change.row_passed) else False,
        )
        self.has_gammas |= len(change.row_gamma) > 0
        self.has_passed |= len(change.row_passed) > 0
        if len(change.row_offset):
            if not len(self.in_flight):
                self.in_flight.start_at(change.row_start)
            self.in_flight.append(offset=change.row_offset, index=change.row_index)
        self._closed_before = max(self._closed_before, change.closed_before)
        self.in_flight.drop_before(self._closed_before)
        sizes = np.diff(change.context_ends, prepend=0)
        self._contexts.append(start=self._elements.end + change.context_ends - sizes, size=sizes)
        self._elements.append(cluster=change.context_cluster, x=change.context_x)
        # While restoring, a stored change may mark rows that have expired since: they are gone.
        rewarded = change.rewarded[change.rewarded >= self.rows.first]
        self.rows.view("rewarded")[rewarded - self.rows.first] = True
        self._book.take(
            change.reward_row,
            change.reward_kind,
            change.reward_identity,
            change.reward_value,
            change.reward_total,
            first_row=self.rows.first,
        )

    def _take_clicks(self, change: JoinerChange) -> None:
        if not len(change.resolved) and not len(change.click_keys):
            return
        resolved = change.resolved[change.resolved >= self._clicks.first] - self._clicks.first
        is_open = self._clicks.view("open")
        self._waiting_hashes.remove(self._clicks.view("hash")[resolved[is_open[resolved]]])
        is_open[resolved] = False
        for key in {self._click_keys[at] for at in resolved.tolist()}:
            left = [number for number in self._waiting.pop(key, []) if is_open[number - self._clicks.first]]
            if left:
                self._waiting[key] = left
        for number, key in zip(count(change.click_start), change.click_keys, strict=False):
            self._waiting.setdefault(key, []).append(number)
        self._click_keys.extend(change.click_keys)
        hashes = self._index.hashes(change.click_keys)
        self._clicks.append(
            occurred=change.click_occurred_ms,
            ingested=change.click_ingested_ms,
            reward=change.click_reward,
            kind=_or_zeros(change.click_kind, len(change.click_keys)),
            identity=_or_zeros(change.click_identity, len(change.click_keys)),
            offset=change.click_offset,
            index=change.click_index,
            hash=hashes,
            open=True,
        )
        if self._waiting_hashes.fits(len(self._clicks)):
            self._waiting_hashes.add(hashes)
        else:
            self._waiting_hashes = HashFilter(self._clicks.view("hash")[self._clicks.view("open")])

    def _evict(self, change: JoinerChange) -> None:
        if len(self._book):
            going = self.rows.view("rewarded")[: max(change.first_row - self.rows.first, 0)]
            for number in (self.rows.first + np.flatnonzero(going)).tolist():
                self._book.forget(number)
        self._index.drop_before(change.first_row)
        self.rows.drop_before(change.first_row)
        kept = int(self.rows.view("context")[0]) if len(self.rows) else self._contexts.end
        self._contexts.drop_before(kept)
        elements = int(self._contexts.view("start")[0]) if len(self._contexts) else self._elements.end
        self._elements.drop_before(elements)
        going = self._clicks.view("open")[: max(change.first_click - self._clicks.first, 0)]
        if len(going):
            self._waiting_hashes.remove(self._clicks.view("hash")[: len(going)][going])
        for number in range(self._clicks.first, change.first_click):
            key = self._click_keys.popleft()
            waiting = self._waiting.get(key)
            if waiting and waiting[0] == number:
                del waiting[0]
                if not waiting:
                    del self._waiting[key]
        self._clicks.drop_before(change.first_click)

    # --- what a change needs -----------------------------------------------------------------------------------

    def _plan_eviction(self, change: JoinerChange) -> None:
        rule, n_new = self.rule, len(change.row_keys)
        expired = _older(
            self.rows.view("ingested"), change.row_ingested_ms, change.clock_ms - rule.row_retention_ms
        )
        crowded = max(len(self.rows) + n_new - rule.max_pending_rows, 0)
        first_row = self.rows.first if len(self.rows) else change.row_start
        change.first_row = first_row + max(expired, crowded)
        change.tally.rows_evicted += max(crowded - expired, 0)

        old, new = self._clicks.view("ingested"), change.click_ingested_ms
        expired = _older(old, new, change.clock_ms - rule.click_retention_ms)
        gone = max(expired, len(old) + len(new) - rule.max_waiting_clicks, 0)
        first_click = self._clicks.first if len(self._clicks) else change.click_start
        if len(old) or len(new):
            still_open = np.concatenate([self._clicks.view("open"), np.ones(len(new), np.bool_)])
            still_open[change.resolved - first_click] = False
            change.tally.clicks_unmatched += int(np.count_nonzero(still_open[:gone]))
            # Decided clicks at the front need no place.
            waiting = still_open[gone:]
            gone += int(np.argmax(waiting)) if waiting.any() else len(waiting)
        change.first_click = first_click + gone

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

    def _plan_closing(self, change: JoinerChange) -> None:
        """Which rows are in flight afterwards; those that are forgotten early close early."""
        change.closed_before = self._closed_before
        if not len(self.in_flight) and not len(change.row_offset):
            return
        first = self.rows.first if len(self.rows) else change.row_start
        over = _older(self.rows.view("ingested"), change.row_ingested_ms, change.clock_ms - self.rule.window_ms)
        if not self.rule.at_close:
            over = len(self.rows) + len(change.row_keys)
        change.closed_before = max(self._closed_before, first + over, change.first_row)

    def items_of(self, rows: Int64, change: JoinerChange) -> Texts:
        """Item ids of rows by number, ascending, alive or added by a change."""
        old, new = rows[rows < change.row_start], rows[rows >= change.row_start] - change.row_start
        return Texts.concatenated([self._index.items(old), change.row_keys.item.take(new)])

    def earned(self, rows: Int64) -> Int64:
        """What alive rows have earned, by number, where that is kept; int64, unit 2^-15."""
        reward = np.zeros(len(rows), np.int64)
        for at in np.flatnonzero(self.rows.take("rewarded", rows)).tolist():
            reward[at] = self._book.total(int(rows[at]))
        return reward

    def closing_rows(self, change: JoinerChange) -> Int64:
        """Numbers of the rows that a change takes out of flight, ascending."""
        if not len(self.in_flight) and not len(change.row_offset):
            return _NONE
        start = self.in_flight.first if len(self.in_flight) else change.row_start
        end = change.row_start + len(change.row_offset) if len(change.row_offset) else self.in_flight.end
        rows = np.arange(start, max(start, min(change.closed_before, end)))
        if self.has_passed or len(change.row_passed):
            rows = rows[~self.are_passed(rows, change.row_passed)]
        return rows

    def are_passed(self, row: Int64, new: Bool) -> Bool:
        """True for each row, by number, that is of a surface which is not learned from; False for -1.

        Args:
            row: int64, numbers of rows that are alive or that a micro-batch adds.
            new: bool of those that it adds; empty where all surfaces are learned from.
        """
        passed = np.zeros(len(row), np.bool_)
        added = row >= self.rows.end
        old = (row >= 0) & ~added
        passed[old] = self.rows.take("passed", row[old])
        if len(new):
            passed[added] = new[row[added] - self.rows.end]
        return passed

    def gather_contexts(self, used: Int64, change: JoinerChange) -> tuple[Int64, Int32, Int64]:
        """Ends, clusters and x of contexts by number, alive or added by a change."""
        old, new = used[used < change.context_start], used[used >= change.context_start] - change.context_start
        if len(new) == len(change.context_ends):
            ends, cluster, x = change.context_ends, change.context_cluster, change.context_x
        else:
            sizes = np.diff(change.context_ends, prepend=0)[new]
            at = ranges(change.context_ends[new] - sizes, sizes)
            ends, cluster, x = np.cumsum(sizes), change.context_cluster[at], change.context_x[at]
        if len(old):
            sizes = self._contexts.take("size", old)
            at = ranges(self._contexts.take("start", old), sizes)
            cluster = np.concatenate([self._elements.take("cluster", at), cluster])
            x = np.concatenate([self._elements.take("x", at), x])
            ends = np.concatenate([np.cumsum(sizes), ends + len(at)])
        return ends, cluster.astype(np.int32, copy=False), x


def _or_zeros(column: Int64, size: int) -> Int64:
    return column if len(column) else np.zeros(size, np.int64)


def _older(alive: Int64, new: Int64, than_ms: int) -> int:
    """How many of the ascending times of `alive` and then `new` are below a time."""
    old = int(np.searchsorted(alive, than_ms))
    return old if old < len(alive) else old + int(np.searchsorted(new, than_ms))

"""Who liked what when, with features: what a two-tower model learns from.

Invariants: events ascend in time; a user likes an item at most once (its first time), so that no event has its own
target in its history; parts are cut by time, never at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandits.arena import ranges
from bandits.graph import Int32, Int64
from streams.corpus.errors import CorpusError
from streams.corpus.features import Column, Table


@dataclass(frozen=True, eq=False)
class Interactions:
    """Positive events of a log.

    Attributes:
        name: of the log.
        user: int32 of shape (n,), row of `user_ids`.
        item: int32 of shape (n,), row of `item_ids`.
        time_ms: int64 of shape (n,), Unix milliseconds, ascending.
        user_ids: external ids of all users, those without events too.
        item_ids: external ids of the whole corpus, items without events too.
        user_table: features of the users, rows as `user_ids`.
        item_table: features of the items, rows as `item_ids`.
        user_columns: which features of a user to encode, and how.
        item_columns: which features of an item to encode, and how.
    """

    name: str
    user: Int32
    item: Int32
    time_ms: Int64
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    user_table: Table
    item_table: Table
    user_columns: tuple[Column, ...]
    item_columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Split:
    """Parts of a log by time: events [0, train_end), [train_end, validation_end), [validation_end, n)."""

    train_end: int
    validation_end: int


def first_likes(user: Int32, item: Int32, time_ms: Int64) -> Int64:
    """Rows of every user's first event with every item, ordered by time, then by row."""
    order = np.argsort(time_ms, kind="stable")
    pair = user[order].astype(np.int64) * (int(item.max(initial=0)) + 1) + item[order]
    _, first = np.unique(pair, return_index=True)
    rows: Int64 = order[np.sort(first)]
    return rows


def split_by_time(log: Interactions, *, validation_share: float, test_share: float) -> Split:
    """Cut the latest events off; events of one millisecond stay together.

    Raises:
        CorpusError: a part would be empty.
    """
    n = len(log)
    ends = [round(n * (1 - validation_share - test_share)), round(n * (1 - test_share))]
    first, second = (int(np.searchsorted(log.time_ms, log.time_ms[min(end, n - 1)])) if n else 0 for end in ends)
    if not 0 < first < second < n:
        raise CorpusError(f"{log.name}: expected events enough for three parts, got {first}, {second} of {n}")
    return Split(first, second)


@dataclass(frozen=True, eq=False)
class Histories:
    """Every user's likes in order of time.

    Attributes:
        order: int64 of shape (n,), events by user, then time.
        start: int64 of shape (n_users + 1,), where each user's events begin in `order`.
        place: int64 of shape (n,), place of each event in `order`.
        item: int32 of shape (n,), items in that order.
    """

    order: Int64
    start: Int64
    place: Int64
    item: Int32

    @classmethod
    def of(cls, log: Interactions) -> "Histories":
        """Histories of a log."""
        order = np.lexsort((np.arange(len(log)), log.user))
        place = np.empty(len(log), np.int64)
        place[order] = np.arange(len(log))
        start = np.searchsorted(log.user[order], np.arange(len(log.user_ids) + 1))
        return cls(order, start, place, log.item[order])

    def before(self, user: Int32, event: Int64, length: int) -> Int32:
        """The last `length` likes of a user before an event of theirs, latest first, -1 where there are no more.

        Args:
            user: int32 of shape (n,).
            event: int64 of shape (n,).
            length: columns.
        """
        return self._back(self.start[user], self.place[event], length)

    def at(self, user: Int32, end: int, length: int) -> Int32:
        """The last `length` likes of users among the events [0, end), latest first, -1 where there are no more."""
        begin, stop = self.start[user], self.start[user + 1]
        # Within a user, events ascend: count those before `end`.
        running = np.concatenate(([0], np.cumsum(self.order < end)))
        return self._back(begin, begin + running[stop] - running[begin], length)

    def seen(self, user: Int32, event: Int64) -> tuple[Int64, Int32]:
        """All likes of users before an event of theirs: rows of `event` and items, parallel."""
        begin = self.start[user]
        sizes = self.place[event] - begin
        return np.repeat(np.arange(len(event)), sizes), self.item[ranges(begin, sizes)]

    def _back(self, begin: Int64, stop: Int64, length: int) -> Int32:
        at = stop[:, None] - np.arange(1, length + 1)
        items = self.item[np.maximum(at, 0)] if len(self.item) else np.zeros(at.shape, np.int32)
        return np.where(at >= begin[:, None], items, -1).astype(np.int32)

"""Shown items with the rewards that the ledger gave them: a log again, from facts and the events that caused them.

Invariant: a row stands for one impression fact, and its reward is the sum of the reward facts of its (request,
item); what counts, within which window and how much, was decided by the joiner and by nobody else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bandits.graph import Graph, Int32, Int64
from bandits.join_rule import JoinRule
from bandits.outcomes import IMPRESSIONS_TOPIC, Outcomes
from bandits.sums import UNIT
from freshet.v1 import events_pb2
from streams.event_codec import Record, impression_columns
from streams.logs.event_log import EventLog

Place = tuple[int, int]  # offset of a source record, index of an event in it


@dataclass(eq=False)
class JoinedRows:
    """Rows collected from ledger records.

    Attributes:
        slates: impressions with at least one row, in the order in which the ledger has them.
        causeless: facts whose source event is gone; they are left out.
    """

    slates: list[events_pb2.Impression] = field(default_factory=list)
    ingested_at_ms: list[int] = field(default_factory=list)
    causeless: int = 0
    _slate_of: dict[Place, int] = field(default_factory=dict)
    _row_of: dict[tuple[str, str], int] = field(default_factory=dict)
    _slate: list[int] = field(default_factory=list)
    _shown: list[int] = field(default_factory=list)
    _reward: list[int] = field(default_factory=list)
    _places: tuple[int, dict[str, int]] = field(default_factory=lambda: (-1, {}))

    def add(
        self,
        outcomes: Outcomes,
        *,
        impression: Callable[[int, int], tuple[events_pb2.Impression, int] | None],
        click: Callable[[int, int], events_pb2.Click | None],
    ) -> None:
        """Take one ledger record.

        Args:
            outcomes: the record.
            impression: the impression at a place of the source log and when it was taken, None if it is gone.
            click: the click at a place of the source log, None if it is gone.
        """
        columns: tuple[Int32 | Int64, ...] = (
            outcomes.item,
            outcomes.impressions,
            outcomes.reward,
            outcomes.cause_topic,
            outcomes.cause_offset,
            outcomes.cause_index,
        )
        if outcomes.opening is not None:
            # An impression in flight has no outcome yet; it comes with the fact that closes it.
            columns = tuple(column[outcomes.opening <= 0] for column in columns)
        for item, shown, reward, topic, offset, index in zip(*(c.tolist() for c in columns), strict=True):
            item_id = outcomes.item_ids[item]
            if shown:
                request_id = self._show(item_id, (offset, index), impression)
            elif topic == IMPRESSIONS_TOPIC:
                found = impression(offset, index)
                request_id = found[0].request_id if found else None
            else:
                reaction = click(offset, index)
                request_id = reaction.request_id if reaction else None
            row = None if request_id is None else self._row_of.get((request_id, item_id))
            if row is None:
                self.causeless += 1
            else:
                self._reward[row] += reward

    def log(self, *, name: str, graph: Graph, note: str) -> tuple[EventLog, Int64]:
        """The rows as a log, by time of their slate and then by position.

        Returns:
            The log, whose contexts are numbered by slate (`user` is the slate of a row); and the number within
            `slates` of each of those, int64.
        """
        occurred = [slate.occurred_at_ms or at for slate, at in zip(self.slates, self.ingested_at_ms, strict=True)]
        by_time = np.argsort(np.array(occurred, np.int64), kind="stable")
        place = np.empty(len(by_time), np.int64)
        place[by_time] = np.arange(len(by_time))
        slates = [self.slates[number] for number in by_time.tolist()]
        columns = impression_columns([Record(0, 0, slates)], JoinRule())
        items = [self.slates[s].items[i] for s, i in zip(self._slate, self._shown, strict=True)]
        slate = place[np.array(self._slate, np.int64)]
        position = np.array([item.position for item in items], np.int32)
        order = np.lexsort((position, slate))
        log = EventLog(
            name=name,
            graph=graph,
            request_ids=[slates[s].request_id for s in slate[order].tolist()],
            item_ids=[items[row].item_id for row in order.tolist()],
            occurred_at_ms=np.array(occurred, np.int64)[by_time][slate[order]],
            clicked=np.array(self._reward, np.float64)[order] / UNIT,
            position=position[order],
            propensity=np.array([item.propensity for item in items], np.float64)[order],
            user=slate[order],
            context_ends=columns.context_ends,
            context_cluster=columns.context_cluster,
            context_x=columns.context_x,
            note=note,
        )
        return log, by_time.astype(np.int64)

    def _show(
        self,
        item_id: str,
        place: Place,
        impression: Callable[[int, int], tuple[events_pb2.Impression, int] | None],
    ) -> str | None:
        number = self._slate_of.get(place)
        if number is None:
            found = impression(*place)
            if found is None:
                return None
            number = self._slate_of[place] = len(self.slates)
            self.slates.append(found[0])
            self.ingested_at_ms.append(found[1])
        slate = self.slates[number]
        if self._places[0] != number:  # facts of a slate stand together
            self._places = number, {item.item_id: i for i, item in enumerate(slate.items)}
        if item_id not in self._places[1]:
            return None
        self._row_of[slate.request_id, item_id] = len(self._slate)
        self._slate.append(number)
        self._shown.append(self._places[1][item_id])
        self._reward.append(0)
        return slate.request_id

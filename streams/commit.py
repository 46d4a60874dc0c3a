"""The commit path of the embedded loop: one function of numbered steps.

    1. number the source records and fold them in the joiner, without changing it
    2. fold the outcomes in the learner
    3. encode source records, ledger record, joiner change, changed rows, dead letters and positions
    4. write them as ONE WriteBatch, synced
    5. take the joiner's change over and hand the changed rows to the server
    (6. the caller acknowledges)

A crash before 4 has happened never; a crash after it has happened wholly.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit
from bandits.joiner import Joiner
from bandits.joiner_change import Dead
from bandits.learner import Learner
from bandits.overlap import OverlapMap
from bandits.sums import Int32
from freshet.v1 import events_pb2, state_pb2
from streams import store as keys
from streams.change import Change, Fading, all_rows, changed_rows
from streams.change_codec import encode_change
from streams.event_codec import Record, click_columns, impression_columns
from streams.failpoints import failpoint
from streams.graph_history import edit_message, with_later
from streams.outcome_codec import decode_outcomes, encode_outcomes
from streams.restore import encode_rule
from streams.row_codec import encode_rows
from streams.store import Batch, Store

_CATCH_UP_RECORDS = 256


@dataclass(eq=False)
class Incoming:
    """Events that were offered together, and the promise made to the caller."""

    batch: events_pb2.ImpressionBatch | events_pb2.ClickBatch
    events: int
    done: "Future[None]" = field(default_factory=Future)


class Committer:
    """Owns joiner, learner and store; used by one thread."""

    def __init__(
        self,
        store: Store,
        head: state_pb2.StoreHead,
        joiner: Joiner,
        learner: Learner | None,
        on_change: Callable[[Change], None],
        clock_ms: Callable[[], int],
        backend: Backend,
    ) -> None:
        self.store = store
        self.head = head
        self.joiner = joiner
        self.learner = learner
        self._on_change = on_change
        self._clock_ms = clock_ms
        self._backend = backend
        self._fading = Fading()

    def commit(self, incoming: Sequence[Incoming]) -> None:
        """Make a micro-batch durable and visible; the steps are those of the module's head."""
        # 1. join
        now_ms = max(self._clock_ms(), self.joiner.clock_ms)  # ingestion time never runs backwards
        impressions, clicks = self._number(incoming, now_ms)
        outcomes, change = self.joiner.join(
            impression_columns(impressions, self.joiner.rule),
            click_columns(clicks, self.joiner.rule),
            clock_ms=now_ms,  # what closes by the clock closes in a micro-batch without events, too
        )
        offset = self.head.ledger_end
        failpoint("joined")
        # 2. learn
        head = self._next_head()
        head.ledger_end = offset + 1
        changed = np.empty(0, np.int32)
        current = self.learner is not None and not head.frozen and head.applied_position == offset
        if self.learner is not None and current:
            changed = self.learner.apply(outcomes, offset=offset)
        failpoint("learned")
        # 3. encode
        batch = Batch()
        for record in impressions:
            batch.put(keys.IMPRESSIONS, record.offset, _source_bytes(record, now_ms))
        for reaction in clicks:
            batch.put(keys.CLICKS, reaction.offset, _source_bytes(reaction, now_ms))
        batch.put(keys.LEDGER, offset, encode_outcomes(outcomes))
        batch.put(keys.CHANGE, change.sequence, encode_change(change))
        batch.delete_below(keys.CHANGE, 0, change.keep_from)
        self._put_dead(batch, head, change.dead)
        if current:
            self._put_rows(batch, head, changed)
        batch.put_head(head)
        failpoint("encoded")
        # 4. write
        self.store.write(batch)
        failpoint("written")
        # 5. take over
        self.head = head
        self.joiner.apply(change)
        if current:
            self._publish(changed)  # even if no row changed: the position did
        failpoint("published")

    def closes_in_s(self) -> float | None:
        """Seconds until a window closes that no event will close; None if nothing is in flight."""
        closes_at_ms = self.joiner.closes_at_ms
        if closes_at_ms is None:
            return None
        return max(closes_at_ms - self._clock_ms(), 0) / 1_000

    def catch_up(self) -> None:
        """Learn what the ledger holds and the rows do not, unless frozen."""
        learner = self.learner
        while learner is not None and not self.head.frozen and self.head.applied_position < self.head.ledger_end:
            start = self.head.applied_position
            end = min(start + _CATCH_UP_RECORDS, self.head.ledger_end)
            changed: list[Int32] = []
            for offset, record in self.store.numbered(keys.LEDGER, start=start, end=end):
                changed.append(learner.apply(decode_outcomes(record), offset=offset))
            learner.position = end
            batch, head = Batch(), self._next_head()
            items: Int32 = np.unique(np.concatenate(changed)) if changed else np.empty(0, np.int32)
            self._put_rows(batch, head, items)
            batch.put_head(head)
            self.store.write(batch)
            self.head = head
            self._publish(items)

    def freeze(self, frozen: bool) -> None:
        """Stop or resume learning."""
        head = self._next_head()
        head.frozen = frozen
        batch = Batch()
        batch.put_head(head)
        self.store.write(batch)
        self.head = head
        self.catch_up()

    def set_graph(self, graph: Graph, *, overlap: tuple[str, OverlapMap] | None = None) -> None:
        """Put a graph in force from the applied position on.

        Rows are rewritten under it in the same WriteBatch: an edge that is gone must not come back with its old
        sums when a later graph has it again.

        Args:
            graph: its artifact lies in the data directory already.
            overlap: name of the overlap map that sums are inherited through, and the map; None = clusters are the
                same.
        """
        batch, head = self._begin_switch(graph.version, overlap=overlap[0] if overlap else None)
        head.graph_base = head.graph_switches
        learner = self.learner
        if learner is None:
            learner = Learner.empty(graph, self._backend)
        else:
            for name in self._dropped(learner, graph):
                batch.delete(keys.ROW, name.encode())
            learner.switch_graph(graph, overlap=overlap[1] if overlap else None)
        self.learner = learner
        self._put_rows(batch, head, np.flatnonzero(learner.row_position).astype(np.int32))
        self._finish_switch(batch, head)

    def edit_graph(self, graph: Graph, edit: GraphEdit) -> None:
        """Put an edit of the graph in force, durably, and hand it over.

        Args:
            graph: the edited graph.
            edit: what was edited; only this is written, and the rows of its items.
        """
        learner = self._learner_in_force()
        before = learner.graph
        batch, head = self._begin_switch(graph.version, edit=edit_message(edit))
        added = learner.edit_graph(graph)
        self._put_rows(batch, head, added[learner.row_position[added] > 0])
        self._finish_switch(batch, head)
        self._on_change(changed_rows(learner, added, extends=before, now_ms=self._fading.now_ms))
        failpoint("switch_published")

    def compact_graph(self, whole: Graph, before: Graph, later: Sequence[GraphEdit]) -> None:
        """Put the graph in force that was built anew from `before`, with what was edited since, and hand it over.

        Args:
            whole: its artifact lies in the data directory already.
            before: the edited graph that it was built from.
            later: edits since then.
        """
        learner = self._learner_in_force()
        batch, head = self._begin_switch(whole.version, compacted=True)
        head.graph_base = head.graph_switches - len(later)
        head.graph_version = learner.graph.version
        graph, live = with_later(whole, before, list(later))
        for name in self._dropped(learner, graph):
            batch.delete(keys.ROW, name.encode())
        learner.compact_graph(graph, live)
        self._finish_switch(batch, head)
        self.publish_all()
        failpoint("switch_published")

    def _learner_in_force(self) -> Learner:
        if self.learner is None:
            raise ValueError("graph: expected one in force, got none")
        return self.learner

    def _begin_switch(self, version: str, **how: Any) -> tuple[Batch, state_pb2.StoreHead]:
        head, batch = self._next_head(), Batch()
        head.graph_version = version
        head.graph_switches += 1
        switch = state_pb2.GraphSwitch(offset=head.applied_position, graph_version=version, **how)
        batch.put(keys.GRAPH, head.graph_switches, switch.SerializeToString())
        return batch, head

    def _finish_switch(self, batch: Batch, head: state_pb2.StoreHead) -> None:
        batch.put_head(head)
        failpoint("switch_encoded")
        self.store.write(batch)
        failpoint("switch_written")
        self.head = head

    def publish_all(self) -> None:
        """Hand over everything."""
        if self.learner is not None:
            self._fading.moves_on(self.learner.sums, slice(None))
            self._on_change(all_rows(self.learner, now_ms=self._fading.now_ms))

    def record_rule(self) -> None:
        """Remember the join rule in force from the next micro-batch on, for `verify`."""
        *_, latest = [(0, b""), *self.store.numbered(keys.RULE)]
        rule = encode_rule(self.joiner.rule)
        if latest[1] != rule:
            batch = Batch()
            batch.put(keys.RULE, self.joiner.sequence + 1, rule)
            self.store.write(batch)

    # --- parts of the steps ------------------------------------------------------------------------------------

    def _number(
        self, incoming: Sequence[Incoming], now_ms: int
    ) -> tuple[list[Record[events_pb2.Impression]], list[Record[events_pb2.Click]]]:
        """Each offer becomes one record of its source log."""
        impressions: list[Record[events_pb2.Impression]] = []
        clicks: list[Record[events_pb2.Click]] = []
        for one in incoming:
            if isinstance(one.batch, events_pb2.ImpressionBatch):
                offset = self.joiner.impressions_position + len(impressions)
                impressions.append(Record(offset, now_ms, one.batch.impressions))
            else:
                offset = self.joiner.clicks_position + len(clicks)
                clicks.append(Record(offset, now_ms, one.batch.clicks))
        return impressions, clicks

    def _next_head(self) -> state_pb2.StoreHead:
        head = state_pb2.StoreHead()
        head.CopyFrom(self.head)
        return head

    def _put_rows(self, batch: Batch, head: state_pb2.StoreHead, items: Int32) -> None:
        learner = self.learner
        if learner is None:
            return
        rows = encode_rows(learner.graph, learner.sums, learner.row_position, items)
        names = learner.graph.item_ids
        batch.put_all(keys.ROW, [names[item] for item in items.tolist()], rows)
        head.applied_position = learner.position
        for partition, sequence in learner.applied.items():
            head.applied_sequences[partition] = sequence
        head.facts_applied = learner.facts_applied
        head.facts_unknown = learner.facts_unknown

    def _put_dead(self, batch: Batch, head: state_pb2.StoreHead, dead: Sequence[Dead]) -> None:
        for letter in dead:
            message = state_pb2.DeadLetter(
                topic=letter.topic, offset=letter.offset, index=letter.index, reason=letter.reason
            )
            batch.put(keys.DEAD, head.dead_letters, message.SerializeToString())
            head.dead_letters += 1

    def _dropped(self, learner: Learner, graph: Graph) -> list[str]:
        """Items with a row that the new graph does not have."""
        with_row = [learner.graph.item_ids[item] for item in np.flatnonzero(learner.row_position).tolist()]
        gone = graph.lookup(with_row, retired=True) < 0
        return [name for name, is_gone in zip(with_row, gone.tolist(), strict=True) if is_gone]

    def _publish(self, items: Int32) -> None:
        if self.learner is not None:
            learner = self.learner
            if self._fading.moves_on(learner.sums, items):
                items = np.arange(learner.graph.n_items, dtype=np.int32)
            self._on_change(changed_rows(learner, items, now_ms=self._fading.now_ms))


def _source_bytes(record: Record[events_pb2.Impression] | Record[events_pb2.Click], ingested_at_ms: int) -> bytes:
    message = state_pb2.SourceRecord(ingested_at_ms=ingested_at_ms)
    if isinstance(record.events[0], events_pb2.Impression):
        message.impressions.impressions.extend(record.events)  # type: ignore[arg-type]
    else:
        message.clicks.clicks.extend(record.events)  # type: ignore[arg-type]
    return message.SerializeToString()

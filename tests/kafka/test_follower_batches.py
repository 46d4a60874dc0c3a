"""A follower that reads a log with graphs that came back, in pieces of any size; without a broker."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from kafka import TopicPartition

from bandits.backend_numpy import NumpyBackend
from bandits.learner import Learner
from freshet.v1 import parameters_pb2
from server import kafka_follower
from streams.kafka.catalogue import Edited
from streams.kafka.parameter_rows import MARK_KEY, fence_key
from streams.row_codec import encode_rows
from streams.topics import TopicNames
from tests.kafka import feed

NAMES = TopicNames("test")
ROWS = TopicPartition(NAMES.parameters, 0)


class ScriptedConsumer:
    """Gives the records of one partition, so many at a poll.

    Args:
        records: of the parameters topic.
        per_poll: at most so many at once.
    """

    def __init__(self, records, per_poll):
        self.records, self.per_poll, self.at = records, per_poll, 0

    def partitions_for_topic(self, topic):
        return {0}

    def assign(self, tps):
        pass

    def seek(self, tp, offset):
        self.at = offset

    def position(self, tp):
        return self.at

    def beginning_offsets(self, tps):
        return dict.fromkeys(tps, 0)

    def end_offsets(self, tps, timeout_ms=0):
        return dict.fromkeys(tps, len(self.records))

    def poll(self, timeout_ms, max_records):
        piece = self.records[self.at : self.at + self.per_poll]
        self.at += len(piece)
        if not piece:
            time.sleep(0.005)
        return {ROWS: piece} if piece else {}

    def close(self):
        pass


def row(name, *, position, impressions, edit=None):
    """A record with the row of an item that was shown so often; with `edit`, of one that the catalogue changed."""
    graph = feed.make_graph()
    learner = Learner.empty(graph, NumpyBackend())
    number = int(graph.lookup(["item-0" if edit else name])[0])
    learner.sums.item[number, 0] = impressions
    positions = np.full(graph.n_items, position, np.int64)
    value = encode_rows(graph, learner.sums, positions, np.array([number], np.int32))[0]
    if edit is not None:
        value += edit.behind()
    return SimpleNamespace(key=name.encode(), value=value, timestamp=position)


def mark(version, *, switched_at, position, fence=False):
    """A mark of the rows before it, or the fence that begins a graph's rows."""
    value = parameters_pb2.PartitionMark(
        position=position, epoch=1, graph_version=version, switched_at=switched_at
    ).SerializeToString()
    return SimpleNamespace(key=fence_key(1) if fence else MARK_KEY, value=value, timestamp=position)


def log_of_a_graph_that_came_back():
    """Under the test graph, under another, and under the test graph once more: only what is last counts."""
    return [
        mark("test-1", switched_at=0, position=0, fence=True),
        row("item-1", position=3, impressions=3),
        row("item-2", position=4, impressions=4),
        row("added", position=5, impressions=5, edit=Edited(2, (), 0, retired=False)),
        mark("test-1", switched_at=0, position=5),
        mark("other", switched_at=7, position=7, fence=True),
        row("item-2", position=7, impressions=4),
        mark("other", switched_at=7, position=8),
        mark("test-1", switched_at=10, position=10, fence=True),
        row("item-2", position=10, impressions=9),
        mark("test-1", switched_at=10, position=10),
    ]


@pytest.mark.parametrize("per_poll", [1, 2, 3, 5, 9, 100])
def test_rows_from_before_a_graph_left_and_came_back_do_not_count(per_poll, monkeypatch):
    """However many records come at once, rows and edits of the graph's first time are forgotten by its second."""
    records = log_of_a_graph_that_came_back()
    monkeypatch.setattr(kafka_follower, "KafkaConsumer", lambda **_: ScriptedConsumer(records, per_poll))
    changes = []
    follower = kafka_follower.ParameterFollower("", names=NAMES, graph=feed.make_graph(), on_change=changes.append)
    follower.start()
    try:
        assert follower.wait_until_ready(10)
        graph, shown = follower.graph, changes[0].item_rows[:, 0]
        assert graph.version == "test-1"
        assert graph.lookup(["added"]).tolist() == [-1]
        assert {graph.item_ids[n]: int(shown[n]) for n in np.flatnonzero(shown)} == {"item-2": 9}
    finally:
        follower.stop()
    assert follower.failed is None

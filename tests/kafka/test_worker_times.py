"""Clicks before impressions, heavy delays and wrong clocks, decided by the real workers as by a simple program."""

import asyncio
import random
import time
import zlib

import pytest
from kafka import KafkaProducer

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.artifact_dir import Artifacts
from streams.kafka.joiner_partition import folder_of
from streams.kafka.verify_topics import verify_topics
from streams.restore import restore_joiner
from streams.store import Store
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.scale import SCALE, new_seed
from tests.kafka.timed_fold import Account, account

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
CONTEXT = {"cluster_ids": [0, 1, 2, 3, 4, 5], "weights": [0.5, 0.25, 0.125, 1.0, 0.75, 0.0625]}


class Sender:
    """Single events, sent when told, with whatever time a producer may claim."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.consumed = {"rows": 0, "clicks": 0}
        self.producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, linger_ms=5)

    def impression(self, request_id, items, occurred_at_ms=0):
        shown = [{"item_id": f"item-{item}"} for item in items]
        event = events_pb2.Impression(
            request_id=request_id, context=CONTEXT, items=shown, occurred_at_ms=occurred_at_ms
        )
        self.consumed["rows"] += len(items)
        self._send(self.cluster.names.impressions, event)

    def click(self, request_id, item, occurred_at_ms=0):
        event = events_pb2.Click(request_id=request_id, item_id=f"item-{item}", occurred_at_ms=occurred_at_ms)
        self.consumed["clicks"] += 1
        self._send(self.cluster.names.clicks, event)

    def _send(self, topic, event):
        partition = zlib.crc32(event.request_id.encode()) % self.cluster.source_partitions
        # The time that a producer puts on its record says nothing: the broker replaces it.
        wrong_ms = now_ms() + (YEAR_MS if partition % 2 else -YEAR_MS)
        self.producer.send(topic, event.SerializeToString(), partition=partition, timestamp_ms=wrong_ms)

    def close(self):
        self.producer.close()


def now_ms():
    return int(time.time() * 1000)


def learned_account(cluster, rule, timeout_s=40) -> Account:
    """The simple program's account, once the workers have learned the same."""
    expected = account(cluster, rule)
    deadline = time.monotonic() + timeout_s
    while difference := cluster.learned().difference(expected.learned):
        assert time.monotonic() < deadline, f"{difference}\n{cluster.last_words()}"
        time.sleep(0.2)
    return expected


def verified(cluster, rule):
    """What `freshet verify --kafka` says; fails if anything differs."""
    result = asyncio.run(
        verify_topics(
            cluster.bootstrap,
            names=cluster.names,
            graph=cluster.graph,
            artifacts=Artifacts([cluster.folder / "graph"]),
            rule=rule,
            backend=choose_backend("numpy"),
            progress=lambda records: None,
        )
    )
    assert result.ok, [check for check in result.checks if not check.ok]
    return result.counts


def tally_of(cluster, number, rule):
    """Counts of all joiner partitions on a stopped worker's disk, and the clicks that still wait."""
    total, waiting = None, 0
    for partition in range(cluster.source_partitions):
        store = Store(folder_of(cluster.folder / f"worker-{number}", partition), read_only=True)
        joiner = restore_joiner(store, rule)
        store.close()
        counts = joiner.tally.as_dict()
        waiting += joiner.waiting_clicks
        total = counts if total is None else {name: total[name] + counts[name] for name in counts}
    return total, waiting


def dead_of(cluster, topic):
    read = fold.read_topic(cluster.bootstrap, cluster.names.dead_letters(topic))
    return sum(len(records) for records in read.values())


@pytest.mark.timeout(120 + 60 * SCALE)
def test_times_decide_and_order_does_not(kafka, topic_prefix, tmp_path):
    """Clicks before their impression and three windows late, a disk lost half-way: each pair by its own times."""
    rng = random.Random(new_seed())
    rule = {"window_ms": 1_000, "max_delay_ms": 700, "max_skew_ms": 150}
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=2, rule=rule)
    rule = JoinRule(**rule)
    sender = Sender(cluster)
    due: list[tuple[float, int, object]] = []
    began_s, length_s = time.monotonic(), 6.0 * SCALE
    for number in range(round(80 * length_s)):
        at_s = rng.uniform(0, length_s)
        items = rng.sample(range(60), 3)
        shown_after_s = min(rng.paretovariate(1.2) * 0.05, 2.0)  # the impression's own way to the log
        due.append((at_s + shown_after_s, 2 * number, ("shown", f"r{number}", items, at_s)))
        if rng.random() < 0.2:
            due.append((at_s + shown_after_s + 0.1, 2 * number, ("shown", f"r{number}", items, at_s)))
        for item in items:
            if rng.random() < 0.5:
                delay_s = min(rng.paretovariate(0.8) * 0.1, 3.0)
                lies_s = min(rng.paretovariate(1.2) * 0.05, 2.0)
                due.append(
                    (at_s + delay_s + lies_s, 2 * number + 1, ("clicked", f"r{number}", item, at_s + delay_s))
                )
    due.sort()
    wiped = False
    try:
        cluster.start(0)
        began_ms, began_s = now_ms(), time.monotonic()
        for at_s, _, (what, request_id, which, occurred_s) in due:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            if not wiped and at_s > length_s / 2:
                cluster.kill(0)
                cluster.wipe(0)
                cluster.start(0)
                wiped = True
            said_ms = began_ms + int(occurred_s * 1000) if rng.random() < 0.7 else 0
            (sender.impression if what == "shown" else sender.click)(request_id, which, said_ms)
        sender.producer.flush()
        expected = learned_account(cluster, rule)
        print(expected.rows, expected.clicks)  # noqa: T201 - the figures of the run
        assert all(expected.rows[kind] for kind in ("accepted", "duplicate", "late")), expected.rows
        assert all(expected.clicks[kind] for kind in ("joined", "late", "alone")), expected.clicks
        counts = verified(cluster, rule)
        assert counts["clicks_joined"] == expected.clicks["joined"]
        assert expected.clicks.total() == sender.consumed["clicks"]
        assert expected.rows.total() == sender.consumed["rows"]
    finally:
        cluster.stop()
        sender.close()


def test_one_wrong_clock_closes_no_window(kafka, topic_prefix, tmp_path):
    """Events of an hour ago, next year, before 1970 or the end of numbers are counted; the others still join."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=2)
    rule, sender = JoinRule(), Sender(cluster)
    offsets_ms = {
        "late": (-HOUR_MS - 1, -YEAR_MS, -50 * YEAR_MS),
        "dead": (HOUR_MS, YEAR_MS, rule.max_skew_ms + 5_000),
        "counts": (-HOUR_MS + 60_000, rule.max_skew_ms - 5_000, 0),
    }
    never = (-1, -YEAR_MS, -(2**63), 2**63 - 1, 2**53 + 1)
    try:
        cluster.start(0)
        for request in range(50):
            sender.impression(f"good-{request}", [request])
        for kind, times in offsets_ms.items():
            for number, offset_ms in enumerate(times):
                sender.impression(f"{kind}-{number}", [1, 2], now_ms() + offset_ms)
                sender.click("good-0", 0, now_ms() + offset_ms if kind != "counts" else 1)
        for number, time_ms in enumerate(never):
            sender.impression(f"never-{number}", [1, 2], time_ms)
            sender.click(f"good-{number}", number, time_ms)
        for request in range(50):
            sender.click(f"good-{request}", request)
        sender.producer.flush()
        expected = learned_account(cluster, rule)
        assert expected.rows == {"accepted": 50 + 2 * 3, "late": 2 * 3, "dead": 2 * (3 + len(never))}
        assert expected.clicks == {"joined": 50, "late": 3 + 3, "dead": 3 + len(never)}
        verified(cluster, rule)
        assert dead_of(cluster, cluster.names.impressions) == 3 + len(never)
        assert dead_of(cluster, cluster.names.clicks) == 3 + len(never)
        cluster.kill(0)
        tally, waiting = tally_of(cluster, 0, rule)
        assert waiting == tally["clicks_unmatched"] == tally["clicks_duplicate"] == 0
        assert {"accepted": tally["impressions_accepted"], "late": tally["impressions_late"]} == {
            "accepted": expected.rows["accepted"],
            "late": expected.rows["late"],
        }
        assert (tally["clicks_joined"], tally["clicks_late"]) == (50, 6)
        assert expected.rows.total() == sender.consumed["rows"]
        assert expected.clicks.total() == sender.consumed["clicks"]
    finally:
        cluster.stop()
        sender.close()

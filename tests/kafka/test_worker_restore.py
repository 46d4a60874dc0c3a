"""Workers whose disk is empty, killed again and again while they fill it."""

import random
import time

import pytest

from bandits.join_rule import JoinRule
from freshet.v1 import kafka_state_pb2
from streams.failpoints import EXIT_CODE
from streams.kafka import joiner_partition, learner_partition
from streams.kafka.joiner_store import JoinerStore
from streams.store import HEAD, Store, StoreError
from tests.kafka.cluster import Cluster
from tests.kafka.scale import SCALE, new_seed
from tests.kafka.test_worker_times import verified

FAILPOINTS = [
    "learner-restored",
    "learner-fenced",
    "learner-rows-written",
    "joiner-rejoined",
    "joiner-settled",
]
RANDOM_KILLS = 2
REQUESTS = 4_000 * SCALE
PARTITIONS = 4


def restored(cluster, number):
    """How many partitions on the disk of a worker that has ended are whole, and how many have been begun."""
    whole = begun = 0
    folder = cluster.folder / f"worker-{number}"
    for partition in range(PARTITIONS):
        for kind, head in (
            (joiner_partition, kafka_state_pb2.JoinerHead()),
            (learner_partition, kafka_state_pb2.LearnerHead()),
        ):
            try:
                store = Store(kind.folder_of(folder, partition), read_only=True)
            except StoreError:
                continue  # not there yet
            head.ParseFromString(store.get(HEAD, b"") or b"")
            store.close()
            begun += 1
            if kind is joiner_partition:
                whole += head.epoch > 0 and not head.recovering
            else:
                whole += head.HasField("mark")
    return whole, begun


def begins(cluster, number, process):
    """Wait until a worker that was just started begins to restore."""
    log, deadline = cluster.folder / f"worker-{number}.log", time.monotonic() + 40
    said = log.read_text().count(" owns ")
    while log.read_text().count(" owns ") == said:
        assert process.poll() is None, cluster.last_words()
        assert time.monotonic() < deadline, cluster.last_words()
        time.sleep(0.01)


@pytest.mark.timeout(120 + 120 * SCALE)
def test_kills_during_the_restore_lose_and_double_nothing(kafka, topic_prefix, tmp_path):
    """A worker fills its empty disk and dies at every step of that, one death after the other, then at random."""
    rng = random.Random(seed := new_seed())
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=PARTITIONS, item_partitions=PARTITIONS)
    source, hits = cluster.feed(seed), []
    try:
        cluster.start(0)
        source.step(REQUESTS)
        source.flush()
        cluster.wait_until_learned(60 * SCALE)
        cluster.kill(0)
        for _ in range(SCALE):
            cluster.wipe(0)
            for name in FAILPOINTS:
                source.step(20)
                source.flush()
                # Partitions that are whole write no rows again, and only one need be left that is not.
                times = 1 if name == "learner-rows-written" else rng.randint(1, PARTITIONS)
                dies = cluster.start(0, failpoint=f"{name}:{times}")
                assert dies.wait(40) == EXIT_CODE, f"{name} was not passed\n{cluster.last_words()}"
            cluster.wipe(0)
            for _ in range(RANDOM_KILLS):
                begins(cluster, 0, cluster.start(0))
                time.sleep(rng.uniform(0.02, 1.0))
                cluster.kill(0)
                hits.append(restored(cluster, 0))
        print(f"(whole, begun) of {2 * PARTITIONS} partitions at random kills: {hits}")  # noqa: T201 - the figures
        cluster.start(0)
        source.finish()
        cluster.wait_until_learned(60)
        verified(cluster, JoinRule())
    finally:
        cluster.stop()
        source.close()


def test_a_wipe_cut_short_leaves_no_half_store(tmp_path, monkeypatch):
    """A process that ends while it removes a store's files can open it again, and finds it empty."""
    folder = tmp_path / "joiner-0"
    store = JoinerStore(folder, JoinRule(), partition=0, ledger_partitions=1)
    head = store.next_head()
    head.epoch = 7
    store.write_head(head)

    def ends(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("streams.kafka.joiner_store.shutil.rmtree", ends)
        with pytest.raises(KeyboardInterrupt):
            store.wipe()
    again = JoinerStore(folder, JoinRule(), partition=0, ledger_partitions=1)
    assert again.head.epoch == 0
    again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["joiner-0"]

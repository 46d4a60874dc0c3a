"""Workers that are killed lose nothing and double nothing."""

import random
import time
from pathlib import Path

import pytest

from streams.failpoints import EXIT_CODE
from tests.kafka.cluster import Cluster

KILLS = 20
FAILPOINTS = [
    "joiner-joined",
    "joiner-one-written",
    "joiner-written",
    "joiner-refused",
    "joiner-sent",
    "joiner-marked",
    "learner-folded",
    "learner-one-written",
    "learner-written",
    "learner-published",
    "learner-marked",
]


RESOLUTIONS = pytest.mark.parametrize("resolution", ["immediate", "at_close"])


def rule_of(resolution: str) -> dict[str, object]:
    """Windows close all the time while workers die, and some only when nothing comes any more."""
    return {"resolution": resolution, "window_ms": 15_000} if resolution == "at_close" else {}


@pytest.mark.timeout(280)
@RESOLUTIONS
def test_random_kills_lose_and_double_nothing(
    kafka: str, topic_prefix: str, tmp_path: Path, resolution: str, record_property: pytest.FixtureRequest
) -> None:
    """Two workers over eight partitions under a steady feed, killed 20 times at random, one with its disk wiped."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - replays the run
    rng = random.Random(seed)
    cluster = Cluster(kafka, topic_prefix, tmp_path, rule=rule_of(resolution))
    source = cluster.feed(seed)
    try:
        cluster.start(0)
        cluster.start(1)
        for kill in range(KILLS):
            until_s = time.monotonic() + rng.uniform(0.05, 3.0)
            while time.monotonic() < until_s:
                source.step(5)
                time.sleep(0.05)
            number = rng.randrange(2)
            cluster.kill(number)
            if kill % 7 == 6:
                cluster.wipe(number)
            cluster.start(number)
        source.finish()
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()


@RESOLUTIONS
def test_failpoints_lose_and_double_nothing(kafka: str, topic_prefix: str, tmp_path: Path, resolution: str) -> None:
    """A crash before and after each numbered step of both commit paths leaves a state that recovers exactly."""
    cluster = Cluster(
        kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2, rule=rule_of(resolution)
    )
    source = cluster.feed(3)
    try:
        for times, name in enumerate(FAILPOINTS):
            if name == "joiner-refused":
                source.send_bad(5)
            # The other worker takes over and crashes there too: at its second passing, so that it gets that far.
            workers = [cluster.start(number, failpoint=f"{name}:{1 + times % 2 + number}") for number in (0, 1)]
            for _ in range(150):
                source.step(10)
                source.flush()
                if all(worker.poll() is not None for worker in workers):
                    break
                time.sleep(0.1)
            codes = [worker.wait(10) for worker in workers]
            assert codes == [EXIT_CODE, EXIT_CODE], f"{name} was not passed\n{cluster.last_words()}"
        source.finish()
        cluster.start(0)
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()


def test_an_empty_disk_is_filled_from_the_topics(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Stores are a cache: joiner and learner come back from sources, ledger and parameters alone."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=4)
    source = cluster.feed(4)
    try:
        for _ in range(3):
            cluster.start(0)
            source.step(150)
            source.flush()
            cluster.wait_until_learned()
            source.step(20)  # clicks of what was shown before the loss come after it
            cluster.kill(0)
            cluster.wipe(0)
        cluster.start(0)
        source.finish()
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()


def test_partitions_change_hands(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Two workers, then three, then one, while events come in."""
    cluster = Cluster(kafka, topic_prefix, tmp_path)
    source = cluster.feed(5)

    def feed_for(seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            source.step(5)
            time.sleep(0.05)

    try:
        cluster.start(0)
        cluster.start(1)
        feed_for(4)
        cluster.start(2)
        feed_for(4)
        cluster.kill(0)
        cluster.kill(1)
        feed_for(3)
        source.finish()
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()

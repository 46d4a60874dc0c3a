"""Two deployments over the same events: each learns its surface, at its own pace, and nothing is lost between."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from server.commands.replay_dlq import replay_dlq
from streams.artifact_dir import Artifacts
from streams.kafka.verify_topics import fold_sources, verify_topics
from tests.kafka import feed, fold
from tests.kafka.cluster import Cluster
from tests.kafka.test_worker_equality import embedded_hash

HOUR_MS = 3_600_000
SHARED = JoinRule(max_delay_ms=8 * HOUR_MS, window_ms=8 * HOUR_MS)
RULES = {
    "home": replace(SHARED, surfaces=("home",), half_life_ms=HOUR_MS),
    "search": replace(SHARED, surfaces=("search", "")),
}


def ask(cluster: Cluster, what: Any, rule: JoinRule) -> Any:
    """What a reader of the topics says under a rule."""
    more = {"artifacts": Artifacts([cluster.folder / "graph"])} if what is verify_topics else {}
    given: dict[str, Any] = {
        "graph": cluster.graph,
        "rule": rule,
        "backend": choose_backend("numpy"),
        "progress": lambda _: None,
    }
    return asyncio.run(what(cluster.bootstrap, names=cluster.names, **given, **more))


def wait_until_learned(cluster: Cluster, rule: JoinRule, expected: str) -> None:
    deadline_s = time.monotonic() + 60
    while (found := ask(cluster, verify_topics, rule)).state_hash != expected or not found.ok:
        assert time.monotonic() < deadline_s, (found, cluster.last_words())
        time.sleep(0.2)


@pytest.mark.timeout(180)
def test_two_surfaces_learn_at_their_own_pace_from_the_same_topics(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Each ends in the state of its own embedded loop over the same log; what one passes over the other learns."""
    clusters: dict[str, Cluster] = {}
    for name, rule in RULES.items():
        (tmp_path / name).mkdir()
        clusters[name] = Cluster(
            kafka,
            f"{topic_prefix}.{name}",
            tmp_path / name,
            events_prefix=topic_prefix,
            source_partitions=2,
            item_partitions=2,
            rule=rule.as_dict(),
        )
    home, search = clusters.values()
    source: feed.Feed = home.feed(seed=5, surfaces=("home", "search", ""), ages_ms=6 * HOUR_MS)
    try:
        for cluster in clusters.values():
            cluster.start(0)  # under the same name: groups are told apart by the prefix
        for _ in range(3):
            source.step(60)
        source.send_bad(4)
        source.finish()
        now_ms = int(time.time() * 1000)
        hashes = {}
        for name, cluster in clusters.items():
            hashes[name] = embedded_hash(cluster, tmp_path / f"{name}-embedded", RULES[name], clock_ms=now_ms)
            wait_until_learned(cluster, RULES[name], hashes[name])
        assert hashes["home"] != hashes["search"]
        tallies = {name: ask(cluster, fold_sources, RULES[name]) for name, cluster in clusters.items()}
        one, other = tallies["home"], tallies["search"]
        assert one.tally.impressions_other_surface == (
            other.tally.impressions_accepted + other.tally.impressions_duplicate
        )
        assert one.tally.clicks_other_surface == other.tally.clicks_joined + other.tally.clicks_duplicate > 0
        assert one.tally.clicks_unmatched == other.tally.clicks_unmatched == 0
        assert one.waiting == other.waiting  # clicks on slates that were never sent, and no others
        for cluster in clusters.values():
            letters = [cluster.names.dead_letters(topic) for topic in cluster.names.sources[:2]]
            assert sum(len(fold.read_topic(kafka, t)[p]) for t in letters for p in fold.read_topic(kafka, t)) == 4
        options = ["--prefix", search.names.prefix, "--events-prefix", topic_prefix, "--dry-run"]
        read = CliRunner().invoke(replay_dlq, ["--bootstrap", kafka, "--source", "clicks", *options])
        assert read.exit_code == 0, read.output
    finally:
        for cluster in clusters.values():
            cluster.stop()
        source.close()

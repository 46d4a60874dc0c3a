"""Several serving processes over Kafka: one follows the workers for all."""

import itertools
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from freshet.v1 import events_pb2, feedback_pb2, operations_pb2
from streams.topics import TopicNames
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import events, wait_for
from tests.kafka.test_worker_equality import hash_of
from tests.server.messages import DEADLINE_S, score_request
from tests.server.processes.pages import standings
from tests.server.processes.servers import Callers, kill, server_of_processes, wait_for_another


def positions(callers: Callers) -> set[int]:
    """Of answers through all connections."""
    answers = [stub.Score(score_request(), timeout=DEADLINE_S) for stub in callers.recommenders]
    return {answer.parameters_position[0] for answer in answers}


def test_processes_serve_what_the_workers_learn(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Feedback through any process is learned once and served by all, before and after the writer is killed."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    settings = {
        "kafka": {"bootstrap": kafka, "prefix": topic_prefix},
        "graph": tmp_path / "graph",
        "graph_dir": None,
    }

    def log(first: int, last: int) -> None:
        """Each event through two processes."""
        shown, clicked = events(last)
        for at in range(first, last):
            for feedback in (callers.feedback[at % 16], callers.feedback[(at + 1) % 16]):
                request = feedback_pb2.LogImpressionsRequest(impressions=[shown.impressions[at]])
                assert feedback.LogImpressions(request, timeout=DEADLINE_S).accepted == 1
                click = feedback_pb2.LogClicksRequest(clicks=[clicked.clicks[at]])
                assert feedback.LogClicks(click, timeout=DEADLINE_S).accepted == 1

    def learned(count: int) -> bool:
        """By the workers, and by the writer from them."""
        sums = cluster.learned().items.values()
        if (sum(n for n, _ in sums), sum(s for _, s in sums)) != (count, count << 15):
            return False
        request = operations_pb2.GetStatusRequest()
        status = callers.operations.GetStatus(request, timeout=DEADLINE_S, wait_for_ready=True)
        same = status.state_hash == hash_of(cluster.graph, cluster.learned())
        return same and positions(callers) == {status.parameters_position[0]}

    try:
        cluster.start(0)
        with server_of_processes(tmp_path / "server", **settings) as (server, callers):
            wait_for(lambda: server.graph_version is not None, 60)
            log(0, 20)
            wait_for(lambda: learned(20), 60)
            writer = kill(server, "writer")
            before = positions(callers)
            log(20, 40)
            wait_for_another(server, "writer", writer)
            wait_for(lambda: learned(40), 60)
            assert max(before) < min(positions(callers))
    finally:
        cluster.stop()


def test_shadows_of_processes_hear_the_clicks_of_the_topic(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """A click that another producer sent is a reward of a slate that some process filled, in one account."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    settings: dict[str, Any] = {
        "kafka": {"bootstrap": kafka, "prefix": topic_prefix},
        "graph": tmp_path / "graph",
        "graph_dir": None,
        "shadow": {"policies": [{"name": "same"}], "share": 1.0, "window_ms": 2_000},
    }
    producer = KafkaProducer(bootstrap_servers=kafka)

    def shown_and_clicked(number: int) -> None:
        stub = callers.recommenders[number % len(callers.recommenders)]
        reply = stub.Score(score_request(request_id=f"r{number}"), timeout=DEADLINE_S)
        click = events_pb2.Click(request_id=f"r{number}", item_id=reply.items[0].item_id)
        producer.send(TopicNames(topic_prefix).clicks, click.SerializeToString(), key=b"r").get(20)

    numbers = itertools.count()

    def rewarded() -> bool:
        """The writer hears clicks that come after it has begun to follow the topic."""
        shown_and_clicked(next(numbers))
        told = standings(server)  # nothing before the writer has reported
        return bool(told and told[0]["logged"] > 0)

    try:
        cluster.start(0)
        with server_of_processes(tmp_path / "server", **settings) as (server, callers):
            wait_for(lambda: server.graph_version is not None, 60)
            wait_for(rewarded, 60)
            (standing,) = standings(server)
            assert standing["slates"] == standing["effective_slates"]
    finally:
        producer.close()
        cluster.stop()

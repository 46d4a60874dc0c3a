"""Shadow policies of a server on Kafka hear the clicks of the whole deployment."""

import json
from collections.abc import Sequence
from pathlib import Path

from kafka import KafkaProducer

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from server.app import App
from server.kafka_producer import FeedbackProducer
from server.logs import make_logger
from server.shadow.click_topic import ClickTopic
from server.shadow.collector import ShadowCollector
from streams.topics import TopicNames
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import wait_for
from tests.server.messages import DEADLINE_S, score_request
from tests.server.serving import Client, make_settings
from tests.server.shadow.shadowed import Shadowed


def test_clicks_of_other_servers_and_producers_are_heard(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """From the start on, each once, whatever their encoding; what is invalid is passed over."""
    Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    names = TopicNames(topic_prefix)
    heard: list[str] = []
    server = FeedbackProducer(kafka, names=names, max_queued_events=100, retry_after_ms=10)
    other = KafkaProducer(bootstrap_servers=kafka)

    def sent(*request_ids: str) -> None:
        clicks = [events_pb2.Click(request_id=request_id, item_id="a") for request_id in request_ids]
        server.clicks(events_pb2.ClickBatch(clicks=clicks)).result(20)

    topic = ClickTopic(
        kafka,
        topic=names.clicks,
        rule=JoinRule(),
        on_clicks=lambda clicks: heard.extend(click.request_id for click in clicks),
        on_passed_over=lambda records: None,
        log=make_logger("error"),
    )
    try:
        sent("before")
        topic.start()
        assert topic.wait_until_following(60)
        sent("of a server", "another")
        other.send(names.clicks, b"{", key=b"x").get(20)
        other.send(names.clicks, json.dumps({"request_id": "as JSON", "item_id": "a"}).encode(), key=b"x").get(20)
        wait_for(lambda: len(heard) >= 3)
        assert sorted(heard) == ["another", "as JSON", "of a server"]
    finally:
        topic.stop()
        other.close()
        server.stop(grace_s=5)


def test_clicks_that_cannot_be_taken_are_counted(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """One bad record is passed over alone, whatever came with it, and the metric says so."""
    Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1)
    shadowed, heard = Shadowed(), list[str]()

    def take(clicks: Sequence[events_pb2.Click]) -> None:
        if any(click.request_id == "bad" for click in clicks):
            raise RuntimeError("made by the test")
        heard.extend(click.request_id for click in clicks)

    topic = ClickTopic(
        kafka,
        topic=TopicNames(topic_prefix).clicks,
        rule=JoinRule(),
        on_clicks=take,
        on_passed_over=shadowed.awaited.passed_over,
        log=make_logger("critical"),
    )
    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=50)
    try:
        topic.start()
        assert topic.wait_until_following(60)
        for name in ("one", "bad", "two", "bad", "three"):
            click = events_pb2.Click(request_id=name, item_id="a")
            producer.send(TopicNames(topic_prefix).clicks, click.SerializeToString(), key=b"x")
        producer.flush()
        wait_for(lambda: len(heard) == 3)
        assert heard == ["one", "two", "three"]
        wait_for(lambda: shadowed.awaited.records_passed_over == 2)
    finally:
        topic.stop()
        producer.close()
    (family,) = (f for f in ShadowCollector(shadowed.awaited).collect() if f.name.endswith("passed_over"))
    assert [(one.name, one.value) for one in family.samples] == [
        ("freshet_shadow_click_records_passed_over_total", 2)
    ]


def test_a_server_on_kafka_weighs_clicks_that_it_did_not_take(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """A click that another producer sent to the topic is a reward of the slate that this server filled."""
    Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    shadow = {"policies": [{"name": "same"}], "share": 1.0, "window_ms": 3_000}
    app = App(make_settings(tmp_path, kafka={"bootstrap": kafka, "prefix": topic_prefix}, shadow=shadow))
    app.start()
    client, other = Client(app), KafkaProducer(bootstrap_servers=kafka)
    try:
        awaited = app._awaited
        assert awaited
        assert app._click_topic
        assert app._click_topic.wait_until_following(60)
        wait_for(lambda: app.snapshot.current is not None)
        reply = client.recommender.Score(score_request(request_id="r"), timeout=DEADLINE_S)
        click = events_pb2.Click(request_id="r", item_id=reply.items[0].item_id)
        other.send(TopicNames(topic_prefix).clicks, click.SerializeToString(), key=b"r").get(20)
        wait_for(lambda: awaited.standings()[0].slates == 1)
        assert awaited.standings()[0].logged == 1 / len(reply.items)
    finally:
        other.close()
        client.close()
        app.stop(1.0)

"""The declared topics on a real broker: created once, verified after, and never changed behind one's back."""

from dataclasses import replace

import pytest
from kafka import KafkaAdminClient
from kafka_broker import free_port

from streams.topics import (
    TopicNames,
    TopicsError,
    TopicSettings,
    TopicSpec,
    compare,
    init_topics,
    plan_topics,
)

TIMEOUT_S = 15.0


@pytest.fixture
def plan(topic_prefix) -> list[TopicSpec]:
    return plan_topics(TopicSettings(names=TopicNames(topic_prefix), source_partitions=3, item_partitions=2))


def _with(plan: list[TopicSpec], name: str, **changes) -> list[TopicSpec]:
    return [replace(spec, **changes) if spec.name == name else spec for spec in plan]


@pytest.mark.parametrize(("source", "item"), [(1, 1), (3, 16), (8, 8)])
def test_joined_topics_have_equal_partition_counts(source, item):
    """Topics that one worker reads together are cut alike, and dead letters like their source."""
    settings = TopicSettings(names=TopicNames("x"), source_partitions=source, item_partitions=item)
    partitions = {spec.name: spec.partitions for spec in plan_topics(settings)}
    assert partitions == {
        **dict.fromkeys(["x.impressions.v1", "x.clicks.v1"], source),
        **dict.fromkeys(["x.impressions.v1.dlq", "x.clicks.v1.dlq"], source),
        **dict.fromkeys(["x.items.v1", "x.items.v1.dlq", "x.outcomes.v1", "x.parameters.v1"], item),
    }


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_one_replica_may_be_lost_without_refusing_writes(replicas, in_sync):
    """With several replicas an acknowledged record is on all but one of them at least."""
    plan = plan_topics(TopicSettings(replication_factor=replicas))
    assert {spec.settings["min.insync.replicas"] for spec in plan} == {in_sync}


@pytest.mark.parametrize(
    ("field", "value"),
    [("source_partitions", 0), ("item_partitions", -1), ("replication_factor", 0), ("source_retention_ms", 0)],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    """A count or time below one is refused before any broker sees it."""
    with pytest.raises(ValueError, match=f"{field}: expected at least 1, got {value}"):
        TopicSettings(**{field: value})


def test_deployments_that_share_events_share_nothing_else() -> None:
    """Impressions, clicks and items are the same topics; ledger, parameters and dead letters are each one's own."""
    one, other = (plan_topics(TopicSettings(names=TopicNames(f"x.{name}", "x"))) for name in ("home", "search"))
    shared = {spec.name for spec in one} & {spec.name for spec in other}
    assert shared == {"x.impressions.v1", "x.clicks.v1", "x.items.v1"}
    assert {spec.name for spec in one} - shared == {
        "x.home.outcomes.v1",
        "x.home.parameters.v1",
        *(f"x.home.{source}.v1.dlq" for source in ("impressions", "clicks", "items")),
    }


@pytest.mark.parametrize("prefix", ["", "a b", "a/b", "ü", "x" * 201])
def test_illegal_prefix_is_refused(prefix):
    """A prefix that Kafka would refuse in a topic's name is refused at once."""
    with pytest.raises(ValueError, match="topic prefix"):
        TopicNames(prefix)


def test_missing_topics_are_created_as_declared(kafka, plan, topic_prefix):
    """The first run creates every topic, and the broker then shows each declared setting."""
    report = init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    assert report.ok
    assert set(report.created) == {spec.name for spec in plan}
    assert report.verified == ()
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        assert compare(admin, plan) == []
        names = TopicNames(topic_prefix)
        described = admin.describe_topics([names.impressions, names.clicks, names.dead_letters(names.items)])
        assert {topic["name"]: len(topic["partitions"]) for topic in described} == {
            names.impressions: 3,
            names.clicks: 3,
            names.dead_letters(names.items): 2,
        }


def test_second_run_verifies_and_creates_nothing(kafka, plan):
    """Running again finds everything in place."""
    init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    report = init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    assert report.ok
    assert report.created == ()
    assert set(report.verified) == {spec.name for spec in plan}


def test_a_lost_topic_is_created_again_beside_the_rest(kafka, plan):
    """Where some topics exist as declared, only the others are created."""
    first, rest = plan[:1], plan[1:]
    init_topics(kafka, first, timeout_s=TIMEOUT_S)
    report = init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    assert report.ok
    assert report.verified == (first[0].name,)
    assert report.created == tuple(spec.name for spec in rest)


@pytest.mark.parametrize(
    ("setting", "existing"),
    [
        ("cleanup.policy", "compact"),
        ("retention.ms", "60000"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "1000"),
        ("unclean.leader.election.enable", "true"),
    ],
)
def test_wrong_existing_setting_is_named_and_nothing_is_changed(kafka, plan, topic_prefix, setting, existing):
    """A topic made with another setting is refused, with the setting, what is expected and what is there."""
    clicks = TopicNames(topic_prefix).clicks
    spec = next(spec for spec in plan if spec.name == clicks)
    other = _with(plan, clicks, settings={**spec.settings, setting: existing})
    made = init_topics(kafka, [item for item in other if item.name == clicks], timeout_s=TIMEOUT_S)
    assert made.ok
    report = init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    assert not report.ok
    assert [str(difference) for difference in report.differences] == [
        f"{clicks}: {setting} is {existing}, expected {spec.settings[setting]}"
    ]
    assert report.created == ()
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        assert [name for name in admin.list_topics() if name.startswith(topic_prefix)] == [clicks]
        assert len([found for found in compare(admin, plan) if found.topic == clicks]) == 1


def test_unequal_partitions_of_clicks_and_impressions_are_refused(kafka, plan, topic_prefix):
    """Clicks with another partition count than impressions would never meet them in one worker."""
    names = TopicNames(topic_prefix)
    init_topics(kafka, _with(plan, names.clicks, partitions=4), timeout_s=TIMEOUT_S)
    report = init_topics(kafka, plan, timeout_s=TIMEOUT_S)
    assert [str(difference) for difference in report.differences] == [
        f"{names.clicks}: partitions is 4, expected 3"
    ]
    assert set(report.verified) == {spec.name for spec in plan} - {names.clicks}


def test_refused_creation_names_the_topic_and_creates_nothing(kafka, plan, topic_prefix):
    """A broker that cannot make one of the topics leaves none of them behind."""
    last = plan[-1].name
    with pytest.raises(TopicsError, match=rf"{last}: the broker refused: .*replication factor"):
        init_topics(kafka, _with(plan, last, replication_factor=30_000), timeout_s=TIMEOUT_S)
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        assert not [name for name in admin.list_topics() if name.startswith(topic_prefix)]


def test_absent_broker_is_an_error_within_the_timeout():
    """With no broker the error names the address and the time, and no thread keeps dialling."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(TopicsError, match=rf"no Kafka broker answered at {address} within 0\.5 s"):
        init_topics(address, plan_topics(TopicSettings()), timeout_s=0.5)


@pytest.mark.parametrize("bootstrap", ["localhost", "localhost:", ":9092", "localhost:kafka", "a:1,b"])
def test_malformed_bootstrap_is_refused_before_dialling(bootstrap):
    """A bootstrap string that is not host:port is refused by its own text."""
    with pytest.raises(ValueError, match="bootstrap: expected host:port"):
        init_topics(bootstrap, plan_topics(TopicSettings()), timeout_s=0.5)


def test_silent_broker_is_an_error_within_the_timeout(own_broker):
    """A broker that accepts connections and never answers is reported like an absent one."""
    own_broker.pause()
    with pytest.raises(TopicsError, match="no Kafka broker answered"):
        init_topics(own_broker.bootstrap, plan_topics(TopicSettings()), timeout_s=0.5)

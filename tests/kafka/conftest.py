"""A real Apache Kafka for tests: one per run, or one of its own for a test that kills or pauses it.

``FRESHET_TEST_KAFKA`` names a broker to use instead of a local one. Where neither can be had the tests
are skipped with the reason, and with ``CI=true`` they fail: a green run there has seen the broker.
"""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from bandits.backend import choose_backend
from bandits.first_use import compile_learning
from bandits.join_rule import JoinRule
from streams.kafka.source_codec import click_decoder, impression_decoder

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "kafka"))

from kafka_broker import LocalBroker, free_port
from kafka_jars import KafkaMissingError

_FIXTURES = {"kafka", "own_broker", "secured"}
_missing_reason = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reason = config.stash.get(_missing_reason, None)
    if reason is not None:
        terminalreporter.write_line(f"NOT TESTED on a real broker: {reason}", yellow=True, bold=True)


def started(broker: LocalBroker, config: pytest.Config) -> LocalBroker:
    try:
        broker.start()
    except KafkaMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs a real broker: {error}")
        config.stash[_missing_reason] = str(error)
        pytest.skip(str(error))
    return broker


@pytest.fixture(scope="session")
def compiled() -> None:
    """What workers load from the cache on disk; several that all compile it at once would outlast their tests."""
    rule = JoinRule()
    impression_decoder(rule)
    click_decoder(rule)
    compile_learning(rule, choose_backend("numpy"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, compiled: None) -> Iterator[str]:
    """The bootstrap string of a broker that all tests share; use ``topic_prefix`` for the topics."""
    given = os.environ.get("FRESHET_TEST_KAFKA")
    if given:
        yield given
        return
    settings = {"log.cleaner.backoff.ms": "200"}  # else a test of compaction waits for 15 s
    broker = LocalBroker(
        tmp_path_factory.mktemp("kafka"), port=free_port(), settings=settings, ends_with_caller=True
    )
    try:
        yield started(broker, pytestconfig).bootstrap
    finally:
        broker.stop()


@pytest.fixture
def own_broker(tmp_path: Path, pytestconfig: pytest.Config, compiled: None) -> Iterator[LocalBroker]:
    """A started local broker for one test, which may kill, pause and restart it."""
    broker = LocalBroker(tmp_path / "own_broker", port=free_port(), ends_with_caller=True)
    try:
        yield started(broker, pytestconfig)
    finally:
        broker.kill9()


@pytest.fixture
def topic_prefix(kafka: str) -> Iterator[str]:
    """A prefix for topics which no other test uses; its topics are removed afterwards."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    yield prefix
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        ours = [name for name in admin.list_topics() if name.startswith(prefix)]
        if ours:
            admin.delete_topics(ours)

"""The topics of the stream: their names, their declared settings, and creating or verifying them.

Promises:
- Every record is stamped by the broker (LogAppendTime): attribution, retention and lag run on one clock
  that no producer can set.
- Impressions and clicks have equal partition counts, and so have items, outcomes and parameters, so one
  worker sees both sides of a join and one partition's parameters come from one learner.
- Settings of an existing topic are compared and shown, never changed; if any is wrong, nothing is created.
- Every request to the broker is bounded by the caller's timeout.
"""

import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams.kafka.security import PLAINTEXT, KafkaSecurity

if TYPE_CHECKING:  # the client takes a tenth of a second to import, and names are wanted without it
    from kafka import KafkaAdminClient

DAY_MS = 86_400_000
DEAD_LETTER_SUFFIX = ".dlq"
# What Kafka's own default admits: a client's 1 MiB and the batch overhead.
SOURCE_MESSAGE_BYTES_MAX = 1_048_588
# A dead letter is the refused record whole, with its reason and coordinates in headers.
DEAD_LETTER_MESSAGE_BYTES_MAX = SOURCE_MESSAGE_BYTES_MAX + 65_536
# The limit holds for a whole record batch, and all rows of a micro-batch are sent as one.
DERIVED_MESSAGE_BYTES_MAX = 8 * 1_048_576
# The active segment is never compacted, so it bounds the superseded rows that a restore reads.
COMPACTED_SEGMENT_BYTES = 64 * 1_048_576
_PREFIX = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_DIAL_PAUSE_S = 0.1
_UNKNOWN_TOPIC, _ALREADY_EXISTS = 3, 36  # Kafka's error codes


class TopicsError(RuntimeError):
    """The broker did not answer or refused; the message names it, the topic and the reason."""


@dataclass(frozen=True)
class TopicNames:
    """The topics' names under a prefix; ``freshet`` gives ``freshet.impressions.v1`` and so on.

    Attributes:
        prefix: of what a deployment writes: ledger, parameters, dead letters; and of the rest unless told.
        events_prefix: of what it reads: impressions, clicks, items; empty = `prefix`. Deployments that learn from
            different surfaces of the same events have it in common.
    """

    prefix: str = "freshet"
    events_prefix: str = ""

    def __post_init__(self) -> None:
        for name, prefix in (("topic prefix", self.prefix), ("events prefix", self.events_prefix or self.prefix)):
            if not _PREFIX.fullmatch(prefix):
                raise ValueError(f"{name}: expected 1-200 of a-z A-Z 0-9 . _ -, got {prefix!r}")

    @property
    def impressions(self) -> str:
        """What was shown; key request_id."""
        return f"{self._events}.impressions.v1"

    @property
    def clicks(self) -> str:
        """What was rewarded; key request_id."""
        return f"{self._events}.clicks.v1"

    @property
    def items(self) -> str:
        """The catalogue; key item_id, compacted."""
        return f"{self._events}.items.v1"

    @property
    def outcomes(self) -> str:
        """The ledger of facts; partition by hash of item_id."""
        return f"{self.prefix}.outcomes.v1"

    @property
    def parameters(self) -> str:
        """The learned rows; key item_id, compacted."""
        return f"{self.prefix}.parameters.v1"

    @property
    def sources(self) -> tuple[str, str, str]:
        """The topics that others write to; each has dead letters."""
        return self.impressions, self.clicks, self.items

    def dead_letters(self, source: str) -> str:
        """The topic that takes what this deployment refuses of one of its sources."""
        return f"{self.prefix}{source.removeprefix(self._events)}{DEAD_LETTER_SUFFIX}"

    @property
    def _events(self) -> str:
        return self.events_prefix or self.prefix


@dataclass(frozen=True, kw_only=True)
class TopicSettings:
    """What an operator may choose about the topics.

    Attributes:
        names: of all of them.
        source_partitions: of impressions and clicks each.
        item_partitions: of items, outcomes and parameters each.
        replication_factor: of every topic; writes need one replica less in sync (at least one).
        source_retention_ms: of impressions and clicks, and of tombstones in compacted topics: at least
            the attribution window plus the longest time that a worker or server may be away.
        long_retention_ms: of the ledger and of dead letters; ``verify`` needs the ledger from its start.
    """

    names: TopicNames = TopicNames()
    source_partitions: int = 8
    item_partitions: int = 8
    replication_factor: int = 1
    source_retention_ms: int = 7 * DAY_MS
    long_retention_ms: int = 365 * DAY_MS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "names" and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True)
class TopicSpec:
    """One declared topic; ``settings`` are Kafka's topic configs as the broker shows them."""

    name: str
    partitions: int
    replication_factor: int
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """One setting that is not as declared; ``found`` is None where the topic or setting is missing."""

    topic: str
    setting: str
    expected: str
    found: str | None

    @property
    def is_missing_topic(self) -> bool:
        """Whether the whole topic is missing rather than wrong."""
        return self.setting == "topic"

    def __str__(self) -> str:
        found = "missing" if self.found is None else self.found
        return f"{self.topic}: {self.setting} is {found}, expected {self.expected}"


@dataclass(frozen=True)
class Report:
    """What ``init_topics`` did: names it created, names it found as declared, and what is wrong."""

    created: tuple[str, ...]
    verified: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether every declared topic is now there as declared."""
        return not self.differences


def missing_topic(topic: str) -> str:
    """What is said of a topic that the broker does not show; it does not tell why."""
    return f"the topic {topic} does not exist, or may not be seen by us: run `freshet init-topics`"


def plan_topics(settings: TopicSettings) -> list[TopicSpec]:
    """The declared topics, sources before what is derived from them, dead letters last."""
    names = settings.names
    kept = _deleted_after(settings.source_retention_ms)
    long_kept = _deleted_after(settings.long_retention_ms)
    compacted = {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(settings.source_retention_ms),
        "segment.bytes": str(COMPACTED_SEGMENT_BYTES),
    }
    by_request = (names.impressions, names.clicks)
    partitions = dict.fromkeys((*by_request, *map(names.dead_letters, by_request)), settings.source_partitions)

    def spec(name: str, own: Mapping[str, str], message_bytes_max: int) -> TopicSpec:
        common = {
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(message_bytes_max),
            "min.insync.replicas": str(max(1, settings.replication_factor - 1)),
            "unclean.leader.election.enable": "false",
        }
        count = partitions.get(name, settings.item_partitions)
        return TopicSpec(name, count, settings.replication_factor, {**own, **common})

    return [
        spec(names.impressions, kept, SOURCE_MESSAGE_BYTES_MAX),
        spec(names.clicks, kept, SOURCE_MESSAGE_BYTES_MAX),
        spec(names.items, compacted, SOURCE_MESSAGE_BYTES_MAX),
        spec(names.outcomes, long_kept, DERIVED_MESSAGE_BYTES_MAX),
        spec(names.parameters, compacted, DERIVED_MESSAGE_BYTES_MAX),
        *(spec(names.dead_letters(source), long_kept, DEAD_LETTER_MESSAGE_BYTES_MAX) for source in names.sources),
    ]


def compare(admin: "KafkaAdminClient", plan: Sequence[TopicSpec]) -> list[Difference]:
    """Every declared setting that the broker shows otherwise, in the plan's order (two requests).

    Raises:
        TopicsError: the broker does not let us see a topic.
    """
    from kafka.admin import ConfigResource

    described = {topic["name"]: topic for topic in admin.describe_topics([spec.name for spec in plan])}
    asked = [ConfigResource("TOPIC", spec.name, dict.fromkeys(spec.settings)) for spec in plan]
    shown = admin.describe_configs(asked, config_filter="all").get("topic", {})
    differences: list[Difference] = []
    for spec in plan:
        topic = described[spec.name]
        if topic["error_code"] == _UNKNOWN_TOPIC:
            differences.append(Difference(spec.name, "topic", "present", None))
            continue
        _raise_refusal(topic)
        found = _shape(topic) | {key: entry["value"] for key, entry in shown.get(spec.name, {}).items()}
        differences += [
            Difference(spec.name, setting, expected, found.get(setting))
            for setting, expected in _declared(spec).items()
            if found.get(setting) != expected
        ]
    return differences


def init_topics(
    bootstrap: str, plan: Sequence[TopicSpec], *, timeout_s: float, security: KafkaSecurity = PLAINTEXT
) -> Report:
    """Create what is missing and verify what is there; safe to repeat and to run twice at once.

    An existing topic that differs is reported and nothing is created or changed.

    Args:
        bootstrap: ``host:port``, several separated by commas.
        plan: from ``plan_topics``.
        timeout_s: of the connection, and of each request after it.
        security: what connections are made with.

    Raises:
        TopicsError: no broker answered in time or takes the connection, or it refused to create a topic.
        ValueError: ``bootstrap`` is not of that form.
    """
    with _admin(bootstrap, timeout_s=timeout_s, security=security) as admin:
        differences = compare(admin, plan)
        missing = {difference.topic for difference in differences if difference.is_missing_topic}
        created: set[str] = set()
        if missing and all(difference.is_missing_topic for difference in differences):
            created = _create(admin, [spec for spec in plan if spec.name in missing], timeout_s=timeout_s)
            made_by_others = [spec for spec in plan if spec.name in missing - created]
            differences = compare(admin, made_by_others) if made_by_others else []
    unverified = created | {difference.topic for difference in differences}
    return Report(
        created=tuple(spec.name for spec in plan if spec.name in created),
        verified=tuple(spec.name for spec in plan if spec.name not in unverified),
        differences=tuple(difference for difference in differences if not difference.is_missing_topic),
    )


def _deleted_after(retention_ms: int) -> dict[str, str]:
    # retention.bytes is declared because a broker-wide limit would cut the log by size before its time.
    return {"cleanup.policy": "delete", "retention.ms": str(retention_ms), "retention.bytes": "-1"}


def _declared(spec: TopicSpec) -> dict[str, str]:
    shape = {"partitions": str(spec.partitions), "replication.factor": str(spec.replication_factor)}
    return shape | dict(spec.settings)


def _shape(topic: Mapping[str, Any]) -> dict[str, str]:
    replicas = {len(partition["replica_nodes"]) for partition in topic["partitions"]}
    factor = ",".join(str(count) for count in sorted(replicas))
    return {"partitions": str(len(topic["partitions"])), "replication.factor": factor}


def _create(admin: "KafkaAdminClient", specs: Sequence[TopicSpec], *, timeout_s: float) -> set[str]:
    """Create topics, all or none as far as the broker can tell beforehand; names made by us, not others."""
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": spec.replication_factor,
            "configs": dict(spec.settings),
        }
        for spec in specs
    }
    created: set[str] = set()
    for validate_only in (True, False):
        answer = admin.create_topics(wanted, validate_only=validate_only, raise_errors=False)
        for topic in answer["topics"]:
            if topic["error_code"] != _ALREADY_EXISTS:
                _raise_refusal(topic)
        created = {topic["name"] for topic in answer["topics"] if topic["error_code"] == 0}
    admin.wait_for_topics(list(wanted), timeout_ms=round(timeout_s * 1000))
    return created


def _raise_refusal(topic: Mapping[str, Any]) -> None:
    from kafka.errors import for_code

    code = topic["error_code"]
    if code != 0:
        reason = topic.get("error_message") or for_code(code).__name__
        raise TopicsError(f"{topic['name']}: the broker refused: {reason}")


@contextmanager
def _admin(bootstrap: str, *, timeout_s: float, security: KafkaSecurity) -> "Iterator[KafkaAdminClient]":
    """An admin client; what goes wrong in the client comes out as TopicsError."""
    _wait_for_listener(bootstrap, timeout_s=timeout_s)
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    from streams.kafka.handshake import Refusal, Unreachable, check_brokers

    try:
        check_brokers(bootstrap, security, timeout_s=timeout_s)
    except Unreachable as error:
        raise TopicsError(f"no Kafka broker answered at {bootstrap} within {timeout_s} s: {error}") from error
    except Refusal as error:
        raise TopicsError(str(error)) from error

    opened: list[Any] = []

    def open_connections(**configs: Any) -> Any:
        opened.append(KafkaAdminClient.DEFAULT_CONFIG["kafka_client"](**configs))
        return opened[-1]

    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap,
            client_id="freshet-topics",
            bootstrap_timeout_ms=round(timeout_s * 1000),  # a float breaks the client's encoder
            request_timeout_ms=round(timeout_s * 1000),
            kafka_client=open_connections,
            **security.keywords(),
        )
    except KafkaError as error:
        for connections in opened:  # a failed constructor leaves its thread dialling the broker for ever
            connections.close()
        raise TopicsError(f"no Kafka broker answered at {bootstrap} within {timeout_s} s: {error}") from error
    try:
        yield admin
    except KafkaError as error:
        raise TopicsError(f"the Kafka broker at {bootstrap} failed: {error}") from error
    finally:
        admin.close()


def _wait_for_listener(bootstrap: str, *, timeout_s: float) -> None:
    """Dial until one address accepts: the client leaks a socket for each refused dial of its own."""
    deadline = time.monotonic() + timeout_s
    addresses = [broker_address(part) for part in bootstrap.split(",")]
    while True:
        for address in addresses:
            try:
                socket.create_connection(address, timeout=max(_DIAL_PAUSE_S, deadline - time.monotonic())).close()
                return
            except OSError as error:
                reason = error
        if time.monotonic() >= deadline:
            raise TopicsError(f"no Kafka broker answered at {bootstrap} within {timeout_s} s: {reason}")
        time.sleep(_DIAL_PAUSE_S)


def broker_address(text: str) -> tuple[str, int]:
    """Host and port of one broker.

    Raises:
        ValueError: it is not of the form ``host:port``.
    """
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"bootstrap: expected host:port, got {text.strip()!r}")
    return host.strip("[]"), int(port)

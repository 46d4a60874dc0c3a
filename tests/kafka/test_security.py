"""Every client of ours on a real broker that encrypts and wants a log-in, and what is said where it is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from bandits.artifact import save_graph
from freshet.v1 import feedback_pb2, feedback_pb2_grpc, operations_pb2, operations_pb2_grpc
from server.cli import freshet
from server.kafka_follower import ParameterFollower
from server.logs import make_logger
from streams.kafka.handshake import Refusal, Unreachable, check_brokers
from streams.kafka.security import KafkaSecurity
from streams.topics import TopicNames
from tests.kafka.conftest import started
from tests.kafka.feed import make_graph
from tests.kafka.secured import PASSWORD, USER, Secured, make_users, secured_broker
from tests.kafka.test_follower import events, wait_for

SHOWN = 40


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, compiled: None
) -> Iterator[Secured]:
    """A broker that both helps and hinders; no other test needs it."""
    with secured_broker(tmp_path_factory.mktemp("secured")) as made:
        started(made.broker, pytestconfig)
        make_users(made)
        yield made


def environment(secured: Secured, **other: str) -> dict[str, str]:
    """The settings of a deployment that encrypts and logs in."""
    given = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(secured.authority.certificate),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": USER,
        "sasl_password": PASSWORD,
    }
    return {f"FRESHET_KAFKA__{name.upper()}": value for name, value in (given | other).items()}


def run(environment: dict[str, str], *arguments: object) -> Result:
    """A command; what it prints, and all that libraries log, is free of the password."""
    done = CliRunner().invoke(freshet, [str(argument) for argument in arguments], env=environment)
    assert PASSWORD not in done.output
    return done


@contextmanager
def program(log: Path, environment: dict[str, str], *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A command in a process of its own until the end of the block; it must end in order, and tell no password."""
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    with process:
        try:
            yield process
            process.terminate()
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, log.read_text()
    assert PASSWORD not in said + log.read_text()


def test_everything_runs_encrypted_and_logged_in(secured: Secured, tmp_path: Path) -> None:
    """Topics are made, a worker learns, a server follows and feeds, and all is verified, by SASL_SSL throughout."""
    at, settings, graph = secured.at("SASL_SSL"), environment(secured), tmp_path / "graph"
    save_graph(make_graph(), graph)
    partitions = ("--source-partitions", 2, "--item-partitions", 2)
    made = run(settings, "init-topics", "--bootstrap", at, *partitions)
    assert made.exit_code == 0, made.output
    any_ports = [f"--{name}=127.0.0.1:0" for name in ("address", "operations-address", "http-address")]
    worker = ("worker", "--bootstrap", at, "--graph", graph, "--data-dir", tmp_path / "w", "--backend", "numpy")
    # With several processes: what follows is another one than what feeds, and both have been handed the password.
    serve = ("serve", "--processes", 2, "--kafka", at, "--graph", graph, "--backend", "numpy", "--json", *any_ports)
    with (
        program(tmp_path / "worker.log", settings, *worker),
        program(tmp_path / "server.log", settings, *serve) as server,
    ):
        assert server.stdout
        ready = json.loads(server.stdout.readline() or "null")
        assert ready, (tmp_path / "server.log").read_text()
        assert PASSWORD not in str(ready)
        shown, clicked = events(SHOWN)
        with grpc.insecure_channel(ready["addresses"]["serving"]) as channel:
            feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
            request = feedback_pb2.LogImpressionsRequest(impressions=shown.impressions)
            assert feedback.LogImpressions(request, timeout=30).accepted == SHOWN
        # A producer that is none of ours, as docs/kafka.md tells it.
        with KafkaProducer(bootstrap_servers=at, **secured.login().keywords()) as producer:
            for click in clicked.clicks:
                producer.send("freshet.clicks.v1", click.SerializeToString(), key=click.request_id.encode())
        wait_for(lambda: verified(settings, at, graph)["counts"]["clicks_joined"] == SHOWN, 60)
        state = verified(settings, at, graph)["state_hash"]
        wait_for(lambda: state_hash(ready["addresses"]["operations"]) == state)
    replayed = run(settings, "replay", "--from-kafka", at, "--graph", graph, "--backend", "numpy", "--json")
    assert json.loads(replayed.stdout)["clicks"] == SHOWN
    letters = run(settings, "replay-dlq", "--bootstrap", at, "--source", "clicks", "--json")
    assert json.loads(letters.stdout)["read"] == 0


def verified(settings: dict[str, str], at: str, graph: Path) -> dict[str, Any]:
    """What `freshet verify` says of the topics, which must agree."""
    done = run(settings, "verify", "--kafka", at, "--graph", graph, "--backend", "numpy", "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def state_hash(address: str) -> str:
    """Of what a server serves."""
    with grpc.insecure_channel(address) as channel:
        operations = operations_pb2_grpc.OperationsServiceStub(channel)
        return operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=10).state_hash


Make = Callable[[Secured], KafkaSecurity]


def _ssl(secured: Secured) -> KafkaSecurity:
    return KafkaSecurity(protocol="SSL", cafile=secured.authority.certificate)


def _with_certificate(secured: Secured) -> KafkaSecurity:
    certificate, key = secured.client
    return KafkaSecurity(protocol="SSL", cafile=secured.authority.certificate, certfile=certificate, keyfile=key)


def _plain_login(secured: Secured) -> KafkaSecurity:
    return secured.login(protocol="SASL_PLAINTEXT", mechanism="PLAIN", cafile=None)


TAKEN: list[tuple[str, Make]] = [
    ("PLAINTEXT", lambda _: KafkaSecurity()),
    ("SSL", _ssl),
    ("MUTUAL", _with_certificate),
    ("SASL_PLAINTEXT", _plain_login),
    ("SASL_SSL", lambda secured: secured.login()),
    ("SASL_SSL", lambda secured: secured.login(mechanism="SCRAM-SHA-256")),
]
REFUSED: list[tuple[str, Make, str]] = [
    ("SASL_SSL", lambda secured: secured.login(password=USER), r"kafka.sasl_password: .*by SCRAM-SHA-512"),
    ("SASL_SSL", lambda secured: secured.login(username="x"), r"kafka.sasl_username.*authentication failed"),
    ("SASL_SSL", lambda secured: secured.login(mechanism="PLAIN"), r"kafka.sasl_mechanism: .* does not take PLAIN"),
    (
        "SASL_SSL",
        lambda secured: secured.login(cafile=secured.stranger.certificate),
        r"kafka.ssl_cafile: .* is not trusted by .*stranger.pem",
    ),
    ("SASL_SSL", lambda secured: secured.login(cafile=None), r"kafka.ssl_cafile: .* the system's authorities"),
    ("ELSEWHERE", _ssl, r"kafka.bootstrap: the certificate of the broker at .* is of another host"),
    ("MUTUAL", _ssl, r"kafka.ssl_certfile: expected a certificate that .* takes, got none"),
    ("SSL", lambda _: KafkaSecurity(), r"kafka.security_protocol: .* SSL or SASL_SSL, got PLAINTEXT"),
    ("SASL_SSL", _plain_login, r"kafka.security_protocol: .* SSL or SASL_SSL, got SASL_PLAINTEXT"),
    ("PLAINTEXT", _ssl, r"kafka.security_protocol: .* PLAINTEXT or SASL_PLAINTEXT, got SSL"),
    (
        "SSL",
        lambda secured: secured.login(),
        r"kafka.security_protocol: .* takes no log-in: expected SSL, got",
    ),
    (
        "SASL_PLAINTEXT",
        lambda _: KafkaSecurity(),
        r"kafka.security_protocol: .* expected SASL_PLAINTEXT, got",
    ),
    ("SASL_SSL", _ssl, r"kafka.security_protocol: .* expected SASL_SSL, got SSL"),
]


def test_what_a_broker_takes_is_taken(secured: Secured) -> None:
    """Every protocol and every mechanism that the settings know, on a listener that wants it."""
    for listener, make in TAKEN:
        check_brokers(secured.at(listener), make(secured))
    # Another broker's absence does no harm.
    check_brokers(f"127.0.0.1:1,{secured.at('SSL')}", _ssl(secured))


def test_what_a_broker_refuses_is_named(secured: Secured) -> None:
    """Each way in which client and broker can differ is one sentence that names the setting."""
    for listener, make, message in REFUSED:
        with pytest.raises(Refusal) as refused:
            check_brokers(secured.at(listener), make(secured))
        assert re.search(message, str(refused.value)), (listener, str(refused.value))
        assert PASSWORD not in str(refused.value)


def test_a_broker_that_is_away_is_no_wrong_setting(secured: Secured) -> None:
    """A server waits for a broker that does not answer, and must tell this from one that refuses it."""
    with pytest.raises(Unreachable, match=r"no Kafka broker answers at 127.0.0.1:1"):
        check_brokers("127.0.0.1:1", _ssl(secured))
    secured.broker.pause()
    try:
        with pytest.raises(Unreachable, match=r"within 0.2 s"):
            check_brokers(secured.at("SASL_SSL"), secured.login(), timeout_s=0.2)
    finally:
        secured.broker.resume()


def test_missing_rights_are_named(secured: Secured, tmp_path: Path) -> None:
    """Who is let in, but may not see the topics or join the group, is told which, instead of waiting for ever."""
    at, graph = secured.at("SASL_SSL"), tmp_path / "graph"
    save_graph(make_graph(), graph)
    made = run(environment(secured), "init-topics", "--prefix", "other", "--bootstrap", at)
    assert (made.exit_code, "other.impressions.v1: the broker refused: Topic" in made.output) == (3, True)
    verified = run(environment(secured), "verify", "--prefix", "other", "--kafka", at, "--graph", graph)
    message = "the topic other.outcomes.v1 does not exist, or may not be seen by us"
    assert (verified.exit_code, message in verified.output) == (3, True), verified.output
    with pytest.raises(Refusal, match=r"does not let 'freshet' by SCRAM-SHA-512 into the consumer group 'other'"):
        check_brokers(at, secured.login(), group="other")
    check_brokers(at, secured.login(), group="freshet.worker")


def test_a_server_that_is_no_longer_let_in_says_why(secured: Secured, capsys: pytest.CaptureFixture[str]) -> None:
    """A password that is changed while a server runs is named in its log, where the library says but "timeout"."""
    log = make_logger("info", "json", sys.stderr)
    follower = ParameterFollower(
        secured.at("SASL_SSL"),
        names=TopicNames(),
        graph=make_graph(),
        on_change=lambda _: None,
        log=log,
        security=secured.login(password=USER),
    )

    def follow() -> None:
        follower.stop()  # once is enough
        raise KafkaTimeoutError("Unable to bootstrap")

    follower._keep(follow)
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert re.search(r"kafka.sasl_password: .* authentication failed", told["reason"])


def test_every_command_says_what_is_refused(secured: Secured, tmp_path: Path) -> None:
    """A wrong password ends each command that speaks to brokers with the setting's name, before anything else."""
    at, graph = secured.at("SASL_SSL"), tmp_path / "graph"
    wrong = environment(secured, sasl_password=USER)
    save_graph(make_graph(), graph)
    ports = [f"--{name}=127.0.0.1:0" for name in ("address", "operations-address", "http-address")]
    data = ("--graph", graph, "--data-dir", tmp_path / "data", "--backend", "numpy")
    commands = [
        ("init-topics", "--bootstrap", at),
        ("replay-dlq", "--bootstrap", at, "--source", "clicks"),
        ("verify", "--kafka", at, "--graph", graph),
        ("replay", "--from-kafka", at, "--graph", graph),
    ]
    for command in commands:
        done = run(wrong, *command)
        assert (done.exit_code, "kafka.sasl_password: the broker at" in done.output) == (3, True), done.output
    for long in (("worker", "--bootstrap", at, *data), ("serve", "--kafka", at, *data, *ports)):
        line = [sys.executable, "-m", "server", *map(str, long)]
        ended = subprocess.run(
            line, env=os.environ | wrong, capture_output=True, text=True, timeout=60, check=False
        )
        assert (ended.returncode, "kafka.sasl_password: the broker at" in ended.stderr) == (3, True), ended.stderr
    found = run(wrong, "doctor", "--kafka", at, "--data-dir", tmp_path, "--json")
    check = next(check for check in json.loads(found.stdout)["checks"] if check["name"] == "kafka")
    assert (check["status"], "kafka.sasl_password" in check["found"]) == ("fail", True)
    found = run(environment(secured), "doctor", "--kafka", at, "--data-dir", tmp_path, "--json")
    check = next(check for check in json.loads(found.stdout)["checks"] if check["name"] == "kafka")
    assert check["found"] == f"{at} takes connections, as SASL_SSL"

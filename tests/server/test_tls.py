"""The gRPC addresses with TLS: who is let in, and certificates that are replaced while the server runs."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from freshet.v1 import operations_pb2, operations_pb2_grpc, recommender_pb2_grpc
from server.app import App, StartError
from server.channels import ClientTls, open_channel, read_tls
from server.cli import freshet
from server.processes.supervisor import Supervisor
from server.settings import SettingsError
from tests.certificates import Authority
from tests.server.messages import DEADLINE_S, score_request
from tests.server.serving import make_settings


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def put(authority: Authority, folder: Path) -> dict[str, Any]:
    """A certificate and its key in place of those in a folder, as settings."""
    certificate, key = authority.issue("server")
    shutil.copy(certificate, folder / "server.pem")
    shutil.copy(key, folder / "server.key")
    return {"tls_certificate": folder / "server.pem", "tls_key": folder / "server.key"}


@contextmanager
def served(folder: Path, server: dict[str, Any], **settings: Any) -> Iterator[App]:
    app = App(make_settings(folder, server=server, **settings))
    app.start()
    try:
        yield app
    finally:
        app.stop(1.0)


def score(address: str, tls: ClientTls | None) -> str:
    """What a new connection ends with: "OK", or the code and what is said of it."""
    with open_channel(address, tls, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            recommender_pb2_grpc.RecommenderServiceStub(channel).Score(score_request(), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


def test_both_addresses_are_encrypted(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    """Who trusts the server's authority gets answers from both addresses; who trusts another gets none."""
    with served(tmp_path, put(authority, tmp_path)) as app:
        trusting = read_tls(authority.certificate, None, None)
        assert score(app.addresses.serving, trusting) == "OK"
        with open_channel(app.addresses.operations, trusting) as channel:
            operations = operations_pb2_grpc.OperationsServiceStub(channel)
            assert operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S).version
        distrusting = score(app.addresses.serving, read_tls(stranger.certificate, None, None))
        assert distrusting.startswith("UNAVAILABLE")
        assert "CERTIFICATE_VERIFY_FAILED" in distrusting
        assert score(app.addresses.serving, None).startswith("UNAVAILABLE")
        with open_channel(app.addresses.operations, None) as channel:
            operations = operations_pb2_grpc.OperationsServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)


def test_callers_without_a_certificate_are_refused(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """With `tls_client_ca` only callers whose certificate is of that authority get through."""
    ca = authority.certificate
    with served(tmp_path, put(authority, tmp_path) | {"tls_client_ca": ca}) as app:
        assert score(app.addresses.serving, read_tls(ca, *authority.issue("caller"))) == "OK"
        for refused in (read_tls(ca, None, None), read_tls(ca, *stranger.issue("caller"))):
            assert score(app.addresses.serving, refused).startswith("UNAVAILABLE")


def test_a_replaced_certificate_is_served(
    authority: Authority, stranger: Authority, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """New connections get the new certificate without a restart; a broken one is logged once, no more."""
    old, new = (read_tls(one.certificate, None, None) for one in (authority, stranger))
    with served(tmp_path, put(authority, tmp_path), log={"level": "info", "format": "json"}) as app:
        (tmp_path / "server.key").write_text("half a key")
        assert [score(app.addresses.serving, old) for _ in range(3)] == ["OK"] * 3
        put(stranger, tmp_path)
        assert score(app.addresses.serving, new) == "OK"
        assert "CERTIFICATE_VERIFY_FAILED" in score(app.addresses.serving, old)
        (tmp_path / "server.pem").unlink()
        assert score(app.addresses.serving, new) == "OK"
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    told = [line["event"] for line in lines if "certificate" in line["event"]]
    broken, replaced = "certificate not replaced, the one before is served on", "certificate replaced"
    assert told == [broken, replaced, broken]


def test_several_processes_replace_it_too(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    """Every serving process answers under TLS, and takes a replaced certificate up."""
    settings = put(authority, tmp_path) | {"processes": 2}
    server = Supervisor(make_settings(tmp_path, server=settings))
    server.start()
    try:
        address = server.addresses.serving
        old, new = (read_tls(one.certificate, None, None) for one in (authority, stranger))
        assert [score(address, old) for _ in range(8)] == ["OK"] * 8
        put(stranger, tmp_path)
        assert [score(address, new) for _ in range(8)] == ["OK"] * 8
        assert score(address, old).startswith("UNAVAILABLE")
    finally:
        server.stop(1.0)


def test_a_file_that_cannot_be_used_is_named(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    """A server with a missing file, or a key of another certificate, is not started, and names the setting."""
    good = put(authority, tmp_path)
    other = stranger.issue("other")[1]
    cases = [
        ({"tls_key": tmp_path / "none"}, "server.tls_key: expected a readable PEM file, got .*none: No such file"),
        ({"tls_key": other}, "server.tls_certificate, server.tls_key: .*other.key: .*mismatch"),
        ({"tls_client_ca": other}, "server.tls_client_ca: expected PEM certificates, got .*other.key"),
    ]
    for wrong, message in cases:
        with pytest.raises(StartError, match=message):
            App(make_settings(tmp_path, server=good | wrong)).start()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_key": "k"}, "server.tls_certificate: expected it with server.tls_key, got none"),
        ({"tls_certificate": "c"}, "server.tls_key: expected it with server.tls_certificate, got none"),
        ({"tls_client_ca": "c"}, "server.tls_certificate: expected it with server.tls_client_ca, got none"),
    ],
)
def test_half_of_tls_is_refused(given: dict[str, str], message: str, tmp_path: Path) -> None:
    """Who sets a part believes that connections are encrypted: the part that is missing is named."""
    with pytest.raises(SettingsError, match=message):
        make_settings(tmp_path, server=given)


def test_commands_speak_tls(authority: Authority, tmp_path: Path) -> None:
    """`simulate` and `replay --to` reach a server that asks callers for a certificate."""
    world, log = tmp_path / "world", tmp_path / "log.jsonl"
    runner = CliRunner()
    assert runner.invoke(freshet, ["simulate", "--seed", "7", "--write-graph", str(world)]).exit_code == 0
    certificate, key = map(str, authority.issue("caller"))
    options = ["--tls-ca", str(authority.certificate), "--tls-certificate", certificate, "--tls-key", key]
    group = put(authority, tmp_path) | {"tls_client_ca": authority.certificate}
    with served(tmp_path, group, graph=world, graph_dir=None, context={"k": 5}) as app:
        users = ["simulate", "--seed", "7", "--seconds", "1", "--json", "--address", app.addresses.serving]
        done = runner.invoke(freshet, [*users, *options])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["slates"] > 0
        without = runner.invoke(freshet, [*users, *options[:2]])
        assert without.exit_code in (1, 3)  # as the users have given up within the second, or not
        item = app.loop.graph.item_ids[0] if app.loop and app.loop.graph else ""
        slate = {
            "request_id": "r",
            "occurred_at_ms": 1_700_000_000_000,
            "items": [{"item_id": item, "propensity": 1.0}],
        }
        context = {"context": {"cluster_ids": [0], "weights": [1.0]}}
        log.write_text(json.dumps(slate | context) + "\n")
        sent = runner.invoke(
            freshet, ["replay", "jsonl", str(log), "--to", app.addresses.serving, "--json", *options]
        )
        assert sent.exit_code == 0, sent.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-ca", "none.pem"], "--tls-ca: expected a readable PEM file, got none.pem: No such file"),
        (["--tls-key", "k"], "--tls-certificate: expected it together with --tls-key, got one of them"),
        (["--tls-certificate", "c", "--tls-key", "k"], "--tls-ca: expected it with --tls-certificate, got none"),
    ],
)
def test_an_option_of_tls_that_cannot_be_used_is_named(options: list[str], message: str) -> None:
    """A command ends with code 2 and the option's name before it connects anywhere in plain text."""
    done = CliRunner().invoke(freshet, ["simulate", "--address", "127.0.0.1:1", *options])
    assert done.exit_code == 2
    assert message in done.output

"""How connections to brokers are secured: whole or refused, and never told."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli import freshet
from server.settings import Settings, SettingsError, load_settings
from streams.kafka.security import KafkaSecurity, SecurityError
from tests.certificates import Authority

HIDDEN = "s3cret, not to be seen"
LOGIN = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "freshet"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_CONFIG", raising=False)


def load(config: Path | None = None, **kafka: Any) -> Settings:
    return load_settings(config, secrets_dir=Path("/nowhere"), **({"kafka": kafka} if kafka else {}))


@pytest.mark.parametrize(
    ("kafka", "message"),
    [
        (
            {"security_protocol": "TLS"},
            "kafka.security_protocol: expected: input should be 'PLAINTEXT', 'SSL'",
        ),
        (
            {"ssl_cafile": "ca.pem"},
            "kafka.security_protocol: expected SSL or SASL_SSL with kafka.ssl_cafile",
        ),
        (
            {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": "ca.pem"},
            "kafka.security_protocol: expected SSL or SASL_SSL with kafka.ssl_cafile, got SASL_PLAINTEXT",
        ),
        (
            {"security_protocol": "SSL", "sasl_username": "u"},
            "kafka.security_protocol: expected SASL_PLAINTEXT or SASL_SSL with kafka.sasl_username, got SSL",
        ),
        (
            {"security_protocol": "SSL", "ssl_keyfile": "key.pem"},
            "kafka.ssl_certfile: expected it with kafka.ssl_keyfile, got none",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password": HIDDEN},
            "kafka.sasl_mechanism: expected it with kafka.security_protocol SASL_SSL, got none",
        ),
        (
            LOGIN | {"sasl_mechanism": "GSSAPI", "sasl_password": HIDDEN},
            "kafka.sasl_mechanism: expected: input should be 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512', got",
        ),
        (LOGIN, "kafka.sasl_password: expected it or kafka.sasl_password_file, got none"),
        (
            LOGIN | {"sasl_password": HIDDEN, "sasl_password_file": "file"},
            "kafka.sasl_password: expected it or kafka.sasl_password_file, got both",
        ),
        (LOGIN | {"sasl_password": ""}, "kafka.sasl_password: expected a text that is not empty"),
        (LOGIN | {"sasl_password": [HIDDEN]}, "kafka.sasl_password: expected a text that is not empty"),
    ],
)
def test_half_of_a_secured_connection_is_refused(kafka: dict[str, Any], message: str) -> None:
    """The error names the setting that is missing or does not fit, and never shows the password."""
    with pytest.raises(SettingsError) as refused:
        load(**kafka)
    assert str(refused.value).startswith(message)
    assert HIDDEN not in str(refused.value)


def test_the_password_is_not_taken_from_the_file_of_settings(tmp_path: Path) -> None:
    """A file that is copied about and committed is no place for it: where to put it instead is said."""
    file = tmp_path / "freshet.toml"
    file.write_text(f'[kafka]\nsasl_password = "{HIDDEN}"\n')
    with pytest.raises(SettingsError, match=r"kafka.sasl_password: .* \(FRESHET_KAFKA__SASL_PASSWORD\)") as refused:
        load(file)
    assert HIDDEN not in str(refused.value)


def test_the_password_comes_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Either way it reaches the clients as it is, without the line end that editors add to a file."""
    file = tmp_path / "password"
    file.write_text(f"{HIDDEN}\n")
    plain = LOGIN | {"security_protocol": "SASL_PLAINTEXT"}
    assert load(**plain, sasl_password_file=file).kafka.security().password == HIDDEN
    monkeypatch.setenv("FRESHET_KAFKA__SASL_PASSWORD", HIDDEN)
    security = load(**plain).kafka.security()
    assert security.keywords() == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "freshet",
        "sasl_plain_password": HIDDEN,
    }


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_cannot_be_used_is_named(content: bytes | None, tmp_path: Path) -> None:
    """A file that is missing, empty or no text is an error that names setting and file."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        SecurityError, match=f"kafka.sasl_password_file: expected a file with a password, got {file}"
    ):
        load(**LOGIN, sasl_password_file=file).kafka.security()


def test_the_password_is_never_shown() -> None:
    """Printed settings mask it, and no `repr` of what carries it has it; processes of ours get it all the same."""
    settings = load(**LOGIN, sasl_password=HIDDEN)
    shown = (repr(settings), str(settings.redacted()), repr(settings.kafka.security()))
    credentials = settings.kafka.security().faust_credentials()
    assert HIDDEN not in "".join([*shown, repr(credentials)])
    again = Settings(**settings.handed_on())
    assert again.kafka.security().password == HIDDEN


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file that is missing, or no PEM, or a key of another certificate, is an error that names the setting."""
    authority = Authority(tmp_path)
    (certificate, _), (_, other) = authority.issue("one"), authority.issue("other")
    cases = [
        ({"cafile": tmp_path / "none"}, "kafka.ssl_cafile: expected PEM certificates, got .*none: No such file"),
        ({"cafile": other}, "kafka.ssl_cafile: expected PEM certificates, got .*other.key"),
        ({"certfile": certificate, "keyfile": other}, "kafka.ssl_certfile, kafka.ssl_keyfile: .*mismatch"),
        ({"certfile": certificate}, "kafka.ssl_certfile, kafka.ssl_keyfile: "),
    ]
    for wrong, message in cases:
        with pytest.raises(SecurityError, match=message):
            _ = KafkaSecurity(protocol="SSL", **wrong).context


@pytest.mark.parametrize(
    "command",
    [
        ["init-topics"],
        ["replay-dlq", "--source", "clicks"],
        ["worker", "--graph", "graph", "--data-dir", "data"],
        ["verify", "--kafka", "127.0.0.1:1"],
        ["replay", "--from-kafka", "127.0.0.1:1"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_reads_what_secures_its_connections(command: list[str], tmp_path: Path) -> None:
    """A setting of Kafka that cannot be used ends each of them with code 2 before it has connected."""
    environment = {"FRESHET_KAFKA__SECURITY_PROTOCOL": "SSL", "FRESHET_KAFKA__SSL_CAFILE": str(tmp_path / "none")}
    done = CliRunner().invoke(freshet, command, env=environment)
    assert done.exit_code == 2, done.output
    assert "kafka.ssl_cafile: expected PEM certificates" in done.output

"""Settings come from where they should, and wrong ones are named."""

from pathlib import Path
from typing import Any

import pytest

from bandits.join_rule import JoinRule
from bandits.policy_settings import PolicySettings
from server.settings import Settings, SettingsError, load_settings, split_address
from streams.embedded import LoopLimits


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FRESHET_CONFIG", raising=False)
    monkeypatch.setattr("server.settings.SECRETS_DIR", tmp_path / "none")


def load(config: Path | None = None, *, secrets: Path | None = None, **overrides: Any) -> Settings:
    return load_settings(config, secrets_dir=secrets or Path("/nowhere"), **overrides)


def test_defaults_are_those_of_the_parts_they_set() -> None:
    """A default stands in one place: the server adds none of its own to policy, join rule and loop."""
    settings = load()
    assert settings.policy.settings() == PolicySettings()
    assert settings.join.rule() == JoinRule()
    assert settings.loop.limits() == LoopLimits()


def test_stronger_sources_win_key_by_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Arguments over environment over secrets over file; a group is merged, not replaced."""
    file = tmp_path / "freshet.toml"
    file.write_text(
        'address = "1.1.1.1:1"\nbackend = "numpy"\n[policy]\nalpha = 0.1\nepsilon = 0.2\nmode = "exploit"\n'
    )
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "freshet_address").write_text("2.2.2.2:2")
    (secrets / "freshet_http_address").write_text("2.2.2.2:3")
    (secrets / "FRESHET_POLICY__EPSILON").write_text("0.3\n")
    (secrets / "FRESHET_POLICY__ALPHA").write_text("0.4")
    (secrets / "keystore.p12").write_bytes(b"\xff\x00")  # of somebody else
    monkeypatch.setenv("FRESHET_HTTP_ADDRESS", "3.3.3.3:3")
    monkeypatch.setenv("FRESHET_POLICY__ALPHA", "0.7")
    settings = load(file, secrets=secrets, policy={"mode": "thompson"})
    assert settings.address == "2.2.2.2:2"
    assert settings.http_address == "3.3.3.3:3"
    assert settings.backend == "numpy"
    assert (settings.policy.mode, settings.policy.alpha, settings.policy.epsilon) == ("thompson", 0.7, 0.3)


def test_the_file_is_found_through_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FRESHET_CONFIG names the file where no argument does."""
    (tmp_path / "f.toml").write_text("[slate]\ntop_m = 3\n")
    monkeypatch.setenv("FRESHET_CONFIG", str(tmp_path / "f.toml"))
    assert load().slate.top_m == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"adress": "x"}, "adress: expected a known setting, got an unknown name"),
        ({"policy": {"alhpa": 1}}, "policy.alhpa: expected a known setting, got an unknown name"),
        ({"policy": {"alpha": -1}}, "policy.alpha: expected 0 <= alpha <= 100, got -1"),
        ({"policy": {"alpha": float("nan")}}, "policy.alpha: expected 0 <= alpha <= 100, got nan"),
        ({"policy": {"mode": "lucky"}}, "policy.mode: expected: input should be 'exploit', 'ucb'"),
        ({"slate": {"top_m": 0}}, "slate.top_m: expected: input should be greater than or equal to 1, got 0"),
        ({"address": "localhost"}, "address: expected host:port with a port from 0 to 65535, got 'localhost'"),
        (
            {"http_address": "h:65536"},
            "http_address: expected host:port with a port from 0 to 65535, got 'h:65536'",
        ),
        (
            {"rpc": {"max_message_bytes": "lots"}},
            "rpc.max_message_bytes: expected: input should be a valid integer",
        ),
        ({"join": {"window_ms": 0}}, "join.window_ms: expected: input should be greater than or equal to 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, Any], message: str) -> None:
    """The error says the field, what was expected and what came, on one line."""
    with pytest.raises(SettingsError) as error:
        load(**overrides)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_wrong_field_gets_a_line() -> None:
    """One run shows all that is to be put right."""
    with pytest.raises(SettingsError) as error:
        load(slate={"top_m": 0}, context={"k": 0, "temperature": -1})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "slate.top_m",
        "context.k",
        "context.temperature",
    ]


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that nobody reads does not pass silently, nested or not."""
    monkeypatch.setenv("FRESHET_ADRESS", "1.1.1.1:1")
    with pytest.raises(SettingsError, match="FRESHET_ADRESS: expected FRESHET_ and one of address"):
        load()
    monkeypatch.delenv("FRESHET_ADRESS")
    monkeypatch.setenv("FRESHET_POLICY__ALHPA", "1")
    with pytest.raises(SettingsError, match=r"policy\.alhpa: expected a known setting"):
        load()


def test_variables_of_a_kubernetes_service_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service called "freshet" puts variables with our prefix into every pod of its namespace."""
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_GRPC",
        "PORT",
        "PORT_50051_TCP",
        "PORT_50051_TCP_ADDR",
    ):
        monkeypatch.setenv(f"FRESHET_{name}", "tcp://10.0.0.1:50051")
    assert load().address == "127.0.0.1:50051"


@pytest.mark.parametrize("content", [None, "address = ", "[policy]\nalpha = 'x'\n", "adress = 'x'\n"])
def test_a_bad_file_is_refused(content: str | None, tmp_path: Path) -> None:
    """A file that is missing, no TOML, or holds what nobody reads, stops the start."""
    file = tmp_path / "f.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError):
        load(file)


def test_redacted_settings_are_plain_values() -> None:
    """What is printed at start can be written as JSON, and holds every setting."""
    shown = load().redacted()
    assert set(shown) == set(Settings.model_fields)
    assert shown["data_dir"] == "freshet-data"


@pytest.mark.parametrize("address", ["", ":80", "host:", "host:-1", "[::1]", "host:80x", "a b:80"])
def test_a_bad_address_is_refused(address: str) -> None:
    """Only host:port is an address."""
    with pytest.raises(ValueError, match="expected host:port"):
        split_address(address)

"""The program as a shell sees it: what goes where, and with which exit code it ends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from server import cli
from server.cli import COMMANDS, freshet, main
from server.demo.scene import Scene
from streams.store import VERSION, Batch, Store

ANY_PORTS = {f"FRESHET_{name}": "127.0.0.1:0" for name in ("ADDRESS", "OPERATIONS_ADDRESS", "HTTP_ADDRESS")}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(freshet, [str(argument) for argument in arguments], prog_name="freshet")


def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The program in a process of its own, without what the caller's environment sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=120)


def assert_one_sentence(result: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Standard error tells a person, in a line and not a traceback."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("freshet: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a small world, as the program itself writes it."""
    folder = tmp_path_factory.mktemp("graphs") / "world-7"
    assert invoke("simulate", "--write-graph", folder).exit_code == 0
    return folder


def serve(folder: Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A server that has nothing to do but start: its input has ended."""
    addresses = [f"--{name}=127.0.0.1:0" for name in ("address", "operations-address", "http-address")]
    return run("serve", "--json", "--stop-on-eof", "--data-dir", folder, *addresses, *arguments, **environment)


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_of_every_command(command: str) -> None:
    """Each command says what it does and how it ends."""
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Exit codes" in " ".join(result.output.split())
    if command not in ("", "worker"):  # which has no result, and logs JSON
        assert "--json" in result.output


def test_help_loads_nothing_heavy() -> None:
    """`freshet --help` answers at once: neither NumPy nor gRPC is imported for it."""
    program = "import sys, server.cli; server.cli.freshet(['--help'], standalone_mode=False); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    loaded = {name.partition(".")[0] for name in said.splitlines()[-1].split()}
    assert "server" in loaded
    assert loaded & {"numpy", "grpc", "rich", "pydantic", "rocksdict", "numba", "freshet"} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_load_nothing_heavy(command: str) -> None:
    """The help of a command, and a wrong option, are answered at once too."""
    program = f"import sys, server.commands.{command.replace('-', '_')}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert {name.partition(".")[0] for name in said.split()} & {"numpy", "grpc", "rich", "rocksdict"} == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["demo", "--seconds", "0"],
        ["demo", "--seconds", "nan-of-it"],
        ["demo", "--mode", "greedy"],
        ["serve", "--address", "localhost"],
        ["serve", "--config", "/nowhere/freshet.toml"],
        ["simulate"],
        ["simulate", "--rounds", "5", "--address", "127.0.0.1:1"],
        ["simulate", "--address", "nowhere"],
        ["inspect"],
        ["inspect", "--data-dir", "x", "--dead", "0", "--ledger", "0"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Bad input is told apart from a bad state of things."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_misspelt_setting_is_named() -> None:
    """A variable that nobody reads is refused, not passed over."""
    result = run("serve", FRESHET_DATADIR="x")
    assert result.returncode == 2
    assert_one_sentence(result, "FRESHET_DATADIR")


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_no_store_ends_with_3(command: str, tmp_path: Path) -> None:
    """Where there is no store nothing is made, and a sentence says so."""
    result = run(command, "--data-dir", tmp_path / "none", "--json")
    assert result.returncode == 3
    assert result.stdout == ""
    assert_one_sentence(result, "no store", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_damaged_graph_stops_the_start(graph: Path, tmp_path: Path) -> None:
    """A graph that cannot be trusted is refused before anything is served."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in graph.iterdir():
        data = file.read_bytes()
        (damaged / file.name).write_bytes(data if file.suffix != ".npy" else data[:-1] + bytes([data[-1] ^ 1]))
    result = serve(tmp_path / "data", "--graph", damaged)
    assert result.returncode == 3
    assert result.stdout == ""
    assert_one_sentence(result, str(damaged))


def test_a_store_of_another_format_stops_the_start(tmp_path: Path) -> None:
    """A store that another release wrote is neither read nor changed."""
    store = Store(tmp_path / "store")
    batch = Batch()
    batch.put(VERSION, b"", (99).to_bytes(8, "big"))
    store.write(batch)
    store.close()
    result = serve(tmp_path)
    assert result.returncode == 3
    assert result.stdout == ""
    assert_one_sentence(result, "format 99", str(tmp_path))


def test_a_taken_address_stops_the_start(tmp_path: Path) -> None:
    """Two servers never share a port, and the second one says which it wanted."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--address", "--http-address"):
            result = serve(tmp_path, option, address)
            assert result.returncode == 3
            assert_one_sentence(result)


def test_a_server_that_is_not_there_ends_with_3() -> None:
    """Simulated users give up on a server that does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        result = run("simulate", "--address", address, "--seconds", 20, "--json")
    assert result.returncode == 3
    assert result.stdout == ""
    assert_one_sentence(result, address, "UNAVAILABLE")


def test_results_are_json_and_nothing_else(graph: Path, tmp_path: Path) -> None:
    """Standard output of --json can be piped into a program as it is."""
    served = serve(tmp_path, "--graph", graph)
    ready, stopped = map(json.loads, served.stdout.splitlines())
    assert (served.returncode, ready["event"], stopped["event"]) == (0, "ready", "stopped")
    assert ready["graph_version"] == "world-7"
    assert set(ready["addresses"]) == {"serving", "operations", "http"}

    shown = json.loads(invoke("inspect", "--data-dir", tmp_path, "--json").stdout)
    assert shown["graph"]["version"] == "world-7"
    assert len(shown["items"]) == 10
    item = json.loads(invoke("inspect", "--data-dir", tmp_path, "--item", "item-000", "--json").stdout)
    assert item["impressions"] == 0
    assert all(edge["d"] == 0 and edge["width"] is None for edge in item["edges"])
    for part in ("--dead", "--ledger"):
        assert json.loads(invoke("inspect", "--data-dir", tmp_path, part, 0, "--json").stdout) == []
    assert json.loads(invoke("verify", "--data-dir", tmp_path, "--json").stdout)["ok"] is True

    simulated = json.loads(invoke("simulate", "--rounds", 40, "--json").stdout)
    assert (simulated["slates"], simulated["impressions"], simulated["errors"]) == (40, 200, 0)


def test_inspect_without_json_shows_the_same(graph: Path, tmp_path: Path) -> None:
    """A person reads the numbers that a program gets."""
    assert serve(tmp_path, "--graph", graph).returncode == 0
    assert "world-7" in invoke("inspect", "--data-dir", tmp_path).output
    assert "unseen" in invoke("inspect", "--data-dir", tmp_path, "--item", "item-001").output
    unknown = invoke("inspect", "--data-dir", tmp_path, "--item", "nobody")
    assert unknown.exit_code == 2
    assert "nobody" in unknown.stderr


def test_the_doctor_finds_what_is_wrong(tmp_path: Path, graph: Path) -> None:
    """Each fault put there is found by its name, with a fix, and nothing else is; the scratch store is gone."""
    healthy = run("doctor", "--json", "--data-dir", tmp_path, "--graph", graph, **ANY_PORTS)
    found = json.loads(healthy.stdout)
    assert healthy.returncode == 0, found
    assert found["ok"] is True
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "CURRENT").write_text("nonsense")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = {**ANY_PORTS, "FRESHET_HTTP_ADDRESS": address}
        sick = run("doctor", "--json", "--data-dir", tmp_path, "--graph", tmp_path, **environment)
    checks = json.loads(sick.stdout)["checks"]
    assert sick.returncode == 1
    failed = {check["name"]: check for check in checks if check["status"] == "fail"}
    assert set(failed) == {"http_address", "graph", "store"}
    assert all(check["fix"] for check in failed.values())
    assert address in failed["http_address"]["found"]


def test_the_doctor_goes_on_without_settings() -> None:
    """Wrong settings are one failed check among the others."""
    result = run("doctor", FRESHET_POLICY__ALPHA="-1")
    assert result.returncode == 1
    assert "policy.alpha" in result.stdout
    assert "numba" in result.stdout


def test_the_library_simulation_is_reproducible() -> None:
    """The same arguments give the same numbers, and another seed others."""
    first, again, other = (
        invoke("simulate", "--rounds", 200, "--seed", seed, "--csv", "-", "--points", 4).stdout
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert first.startswith("start_s,end_s,slates,reward,expected,uniform,best,explored_share")
    assert len(first.splitlines()) == 5


def test_the_uniform_mode_earns_what_uniform_slates_are_worth() -> None:
    """The baseline that learning is compared with is right: random slates get it, within their noise."""
    result = json.loads(invoke("simulate", "--rounds", 3_000, "--mode", "uniform", "--json").stdout)
    last = result["last"]
    assert abs(last["expected"] - last["uniform"]) < 0.05 * last["uniform"]
    assert last["uniform"] < 0.5 * last["best"]


def test_an_unexpected_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody thought of ends with 3 and a sentence; with FRESHET_DEBUG the traceback is there."""

    def break_down(self: cli.Commands, ctx: click.Context, cmd_name: str) -> None:
        raise RuntimeError("the flux\ncapacitor is empty")

    monkeypatch.setattr(cli.Commands, "get_command", break_down)
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 3
    assert "RuntimeError: the flux capacitor is empty" in capsys.readouterr().err
    monkeypatch.setenv("FRESHET_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["demo"])


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a person stops says so to the shell."""

    def interrupt(self: cli.Commands, ctx: click.Context, cmd_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Commands, "get_command", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 130


def test_the_scene_needs_no_server() -> None:
    """The graph that is written is the one that simulated users know."""
    assert Scene(7).graph.version == "world-7"

"""The image and its services fit the checkout and the program; whether it builds and runs only Docker can tell."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from server.cli import freshet

ROOT = Path(__file__).parents[2]


def instructions(deploy_dir: Path) -> list[tuple[str, list[str]]]:
    """Name and words of each line of the Dockerfile."""
    text = (deploy_dir / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], shlex.split(line)[1:]) for line in lines]


def commands(deploy_dir: Path) -> list[list[str]]:
    """What the services of the image are started with."""
    text = (deploy_dir / "compose.yaml").read_text()
    return [json.loads(found) for found in re.findall(r"^    command: (\[[^]]+\])", text, re.MULTILINE)]


def test_what_the_image_copies_is_there_and_let_in(deploy_dir: Path) -> None:
    """Every source of a COPY is there and passes the ignore file, all packages of the wheel among them."""
    copied = {
        source
        for name, words in instructions(deploy_dir)
        if name == "COPY" and not words[0].startswith("--from")
        for source in words[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    ignored = (deploy_dir / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    packages = re.findall(r"^packages = \[(.+)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    assert {package.split("/")[0] for package in json.loads(f"[{packages}]")} <= copied


def test_the_image_installs_what_is_locked(deploy_dir: Path) -> None:
    """Dependencies come from the lock file with their hashes, and nothing is fetched besides."""
    installs = [words for name, words in instructions(deploy_dir) if name == "RUN" and "install" in words]
    locked, own = installs
    assert "--require-hashes" in locked
    assert locked[-2:] == ["-r", "requirements.lock"]
    assert {"--no-deps", "--no-build-isolation"} <= set(own)


def test_the_image_does_not_run_as_root(deploy_dir: Path) -> None:
    """The last USER is a number above those of the system, which an orchestrator can check."""
    users = [words[0] for name, words in instructions(deploy_dir) if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", users[-1])


def test_services_are_commands_of_this_program(deploy_dir: Path) -> None:
    """A renamed or removed option is noticed here, and not by who starts the services."""
    found = commands(deploy_dir)
    assert [command[0] for command in found] == ["init-topics", "worker", "serve"]
    context = click.Context(freshet)
    for name, *options in found:
        command = freshet.get_command(context, name)
        assert command
        command.make_context(name, options)


@pytest.mark.parametrize("service", ["topics", "worker", "server"])
def test_services_are_of_the_image_and_hardened(service: str, deploy_dir: Path) -> None:
    """Each takes over the common part: built here, without capabilities, started only when asked for."""
    text = (deploy_dir / "compose.yaml").read_text()
    common = re.findall(r"^x-freshet: &freshet\n((?:  .+\n)+)", text, re.MULTILINE)[0]
    for line in (
        'profiles: ["freshet"]',
        "dockerfile: deploy/Dockerfile",
        'cap_drop: ["ALL"]',
        "no-new-privileges",
    ):
        assert line in common
    assert f"\n  {service}:\n    <<: *freshet\n" in text

"""The cache of broker jars: resolved once, used offline, never half; what is missing is told in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_jars import KafkaMissingError, cache_dir, is_complete, jars, java, kafka_version

# Stands in for mvn: notes that it ran, then writes two jars where it is told to.
_MVN = """#!/bin/sh
PATH=/bin:/usr/bin
echo run >> "{notes}"
for argument; do
  case "$argument" in -DoutputDirectory=*) folder="${{argument#*=}}";; esac
done
mkdir -p "$folder" && echo one > "$folder/one.jar" && echo two > "$folder/two.jar"
{then}
"""


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """The only folder in PATH, empty at first; the cache lies in a folder of this test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("FRESHET_KAFKA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def _install(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _install_mvn(programs: Path, then: str = "") -> Path:
    notes = programs.parent / "mvn-runs"
    _install(programs / "mvn", _MVN.format(notes=notes, then=then))
    return notes


def _install_java(programs: Path, version: str) -> Path:
    _install(programs / "java", f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    return programs / "java"


def test_complete_cache_is_used_without_mvn(programs):
    """After the first resolution mvn may be gone and is not missed."""
    notes = _install_mvn(programs)
    folder = jars()
    assert folder == cache_dir()
    assert {jar.name for jar in folder.glob("*.jar")} == {"one.jar", "two.jar"}
    (programs / "mvn").unlink()
    assert jars() == folder
    assert notes.read_text() == "run\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "one.jar").unlink(),
        lambda folder: (folder / "one.jar").write_text("o"),
        lambda folder: (folder / "foreign.jar").write_text("x"),
        lambda folder: (folder / "complete.json").unlink(),
        lambda folder: (folder / "complete.json").write_text('{"one.jar"'),
        lambda folder: (folder / "complete.json").write_text("{}"),
    ],
    ids=["lost jar", "short jar", "foreign jar", "no marker", "cut marker", "empty marker"],
)
def test_damaged_cache_is_resolved_again(programs, damage):
    """A cache that is not exactly what its marker lists is never run; it is replaced whole."""
    notes = _install_mvn(programs)
    folder = jars()
    damage(folder)
    assert not is_complete(folder)
    assert is_complete(jars())
    assert {path.name for path in folder.iterdir()} == {"one.jar", "two.jar", "complete.json"}
    assert notes.read_text() == "run\nrun\n"


def test_failed_resolution_leaves_no_cache_and_says_why(programs):
    """When mvn fails half way its reason is passed on and its half is thrown away."""
    _install_mvn(programs, then="echo '[ERROR] no route to host'; exit 1")
    with pytest.raises(KafkaMissingError, match=rf"resolve Kafka {kafka_version()}: \[ERROR\] no route to host"):
        jars()
    assert list(cache_dir().parent.iterdir()) == []


def test_missing_mvn_is_one_sentence(programs):
    """Without mvn and without a cache the message names both and fits a line."""
    with pytest.raises(KafkaMissingError, match="mvn, which downloads it, is not in PATH") as caught:
        jars()
    assert str(cache_dir()) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("version", "shown"), [("11.0.2", "11"), ("1.8.0_402", "8"), ("16", "16")])
def test_old_java_is_refused_with_its_version(programs, version, shown):
    """Kafka 4 needs Java 17; an older one is named instead of dying in a stack trace."""
    program = _install_java(programs, version)
    with pytest.raises(KafkaMissingError, match=rf"needs Java 17 or newer; {program} is {shown}$"):
        java()


@pytest.mark.parametrize("version", ["17", "17.0.15", "21.0.1", "26-ea"])
def test_recent_java_is_accepted(programs, version):
    """Releases and early-access builds from 17 on are taken."""
    program = _install_java(programs, version)
    assert java() == str(program)


def test_missing_java_ends_the_script_with_one_line(programs, deploy_dir, tmp_path):
    """The script says what is missing and exits 1, without a traceback."""
    script = deploy_dir / "kafka" / "freshet-kafka"
    ended = subprocess.run(
        [sys.executable, str(script), "start", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"freshet-kafka: Kafka {kafka_version()} needs Java 17 or newer; no java in PATH"
    )
    assert "Traceback" not in ended.stderr

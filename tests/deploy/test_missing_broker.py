"""A run without a broker is loud: skipped with the reason here, a failure under CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = "tests/kafka/test_topics.py::test_second_run_verifies_and_creates_nothing"


def _run_without_java(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "FRESHET_TEST_KAFKA")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", TEST],
        cwd=ROOT,
        env=kept | {"JAVA_HOME": str(tmp_path / "no-java")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("environment", [{}, {"CI": "false"}], ids=["no CI", "CI=false"])
def test_without_java_broker_tests_are_skipped_and_said_so(tmp_path, environment):
    """A developer without Java sees at the end of the run that nothing met a real broker, and why."""
    ended = _run_without_java(tmp_path, **environment)
    assert ended.returncode == 0, ended.stdout
    assert "1 skipped" in ended.stdout
    assert "NOT TESTED on a real broker: Kafka" in ended.stdout
    assert "no java in JAVA_HOME" in ended.stdout


def test_without_java_ci_fails(tmp_path):
    """CI cannot go green without having seen the broker."""
    ended = _run_without_java(tmp_path, CI="true")
    assert ended.returncode == 1, ended.stdout
    assert "CI needs a real broker: Kafka" in ended.stdout

"""Makes the modules beside the deployment's scripts importable; they are no part of the package."""

import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
sys.path[:0] = [str(DEPLOY / "kafka"), str(DEPLOY / "grafana")]


@pytest.fixture(scope="session")
def deploy_dir() -> Path:
    """The repository's folder of deployment files."""
    return DEPLOY

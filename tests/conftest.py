"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real logs and golden numbers, which is not part of the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FRESHET_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real logs: set FRESHET_TEST_DATA (looked in {folder})")
    return folder

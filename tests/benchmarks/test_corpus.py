"""The cost of building a graph can be measured."""

from pathlib import Path

import pytest

from benchmarks.corpus import QUICK, main


def test_every_size_is_built_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each size, with its memory, and the picture."""
    pytest.importorskip("faiss")
    assert main(["--quick", "--write", str(tmp_path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "MiB" in line]
    assert [line.split("|")[1:3] for line in rows] == [[f" {clusters} ", f" {items} "] for clusters, items in QUICK]
    assert (tmp_path / "corpus-build.svg").read_text().startswith("<?xml")

"""The committed protobuf modules are what the .proto files give."""

from pathlib import Path

import pytest

from protos.generate import ROOT, generate


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules, generated now."""
    pytest.importorskip("grpc_tools")
    folder = tmp_path_factory.mktemp("generated")
    generate(folder)
    return folder / "freshet" / "v1"


def test_the_generated_modules_are_fresh(fresh: Path) -> None:
    """After a change of a .proto: `make proto`."""
    committed = ROOT / "freshet" / "v1"
    stale = [path.name for path in sorted(fresh.iterdir()) if not same(path, committed / path.name)]
    assert not stale, f"run `make proto`: {stale} differ from what their .proto files give"


def test_no_generated_module_has_lost_its_source(fresh: Path) -> None:
    """A module without a .proto would keep working until it is needed to change."""
    names = {path.name for path in fresh.iterdir()}
    assert {path.name for path in (ROOT / "freshet" / "v1").glob("*_pb2*")} == names


def same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()

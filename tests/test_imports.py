"""The layering of the packages and the size of their files, read from the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bandits", "streams", "server")
MOST_LINES = 500

PURE = {
    *(
        "abc",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "heapq",
        "itertools",
    ),
    *("math", "numbers", "operator", "struct", "types", "typing", "warnings"),
    *("numpy", "scipy", "bandits"),
}
ACCELERATORS = {"numba", "llvmlite", "cupy", "cupyx"}
FILES_ALLOWED_TO = {
    "bandits/artifact.py": {"hashlib", "json", "mmap", "os", "pathlib", "shutil"},
    "bandits/cuda/__init__.py": {"importlib"},  # sources of kernels that lie beside it
    "bandits/drawn_propensity.py": {"sys"},  # names itself in the key of its compiled code
    "bandits/numba_cache.py": {"hashlib"},
    "bandits/numba_reserved.py": {"sys"},
}
EXECUTES_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
SEEDED_RANDOM = {"BitGenerator", "Generator", "PCG64", "PCG64DXSM", "Philox", "SeedSequence", "default_rng"}


def sources(*folders: str) -> list[str]:
    """Paths of the sources written by hand, relative to the root."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if "_pb2" not in path.name)


def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"), filename=path)


def imports(node: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """Full names of the modules a source imports; without `lazy` only those imported along with it."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "expected absolute imports"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not lazy:
        return
    elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from imports(child, lazy=lazy)


def tops(node: ast.AST) -> set[str]:
    """First names of all imports, lazy ones too."""
    return {name.partition(".")[0] for name in imports(node)}


def impurities(path: str, tree: ast.AST) -> list[str]:
    """What in a source of `bandits` touches the world outside, or the state of the process."""
    allowed = PURE | ACCELERATORS | FILES_ALLOWED_TO.get(path, set())
    found = sorted(tops(tree) - allowed)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}:
                found.append(f"{called}()")
            if called.endswith("default_rng") and not node.args and not node.keywords:
                found.append("default_rng() without a seed")
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name in {"os.environ", "os.getenv"}:
                found.append(name)
            if name.startswith(("np.random.", "numpy.random.")) and name.split(".")[2] not in SEEDED_RANDOM:
                found.append(name)
    return found


def reads_data_as_code(tree: ast.AST) -> list[str]:
    """Calls and imports that would run what a file or message holds."""
    found = sorted(tops(tree) & EXECUTES_DATA)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"yaml.load", "yaml.unsafe_load", "eval", "exec"}:
                found.append(called)
            refused = [key for key in node.keywords if key.arg == "allow_pickle"]
            found += [ast.unparse(key) for key in refused if ast.unparse(key.value) != "False"]
    return found


@pytest.mark.parametrize("path", sources("bandits"))
def test_the_mathematics_is_pure(path: str) -> None:
    """`bandits` does no I/O, reads no clock nor environment, and draws from no generator it was not given."""
    assert impurities(path, parse(path)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("def f():\n    from datetime import datetime", ["datetime"]),
        ("import numpy.random, asyncio.events", ["asyncio"]),
        ("from freshet.v1 import events_pb2", ["freshet"]),
        ("from streams import joiner", ["streams"]),
        ("import os\nos.environ['X']", ["os", "os.environ"]),
        ("np.random.rand(3)", ["np.random.rand"]),
        ("rng = np.random.default_rng()", ["default_rng() without a seed"]),
        ("rng = np.random.default_rng(seed)", []),
        ("print(1)", ["print()"]),
        ("from bandits.graph import Graph\nimport numpy as np\nimport numba", []),
    ],
)
def test_impurities_are_seen(source: str, found: list[str]) -> None:
    """The check of purity finds what it is there to find."""
    assert impurities("bandits/new.py", ast.parse(source)) == found


def test_accelerators_are_loaded_only_when_chosen() -> None:
    """Importing any module not named after an accelerator loads none: they take seconds, or are not there."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1].split(): importlib.import_module(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    plain = [path for path in sources("bandits") if "numba" not in path and "cupy" not in path]
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in plain]
    command = [sys.executable, "-c", program, " ".join(names)]
    loaded = set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())
    assert "bandits" in loaded
    assert (
        loaded & (ACCELERATORS | {"asyncio", "faust", "freshet", "grpc", "rocksdict", "server", "streams"}) == set()
    )


@pytest.mark.parametrize("path", [p for p in sources("bandits") if "numba" not in p and "cupy" not in p])
def test_accelerated_modules_are_imported_lazily(path: str) -> None:
    """A module that needs an accelerator is imported within the function that chooses it."""
    eager = set(imports(parse(path), lazy=False))
    assert [name for name in eager if name.partition(".")[0] in ACCELERATORS] == []
    assert [name for name in eager if name.startswith("bandits.") and ("numba" in name or "cupy" in name)] == []


@pytest.mark.parametrize("path", sources("streams"))
def test_streams_never_import_the_server(path: str) -> None:
    """Workers run without the server's code, so only the server may know both."""
    assert "server" not in tops(parse(path))


@pytest.mark.parametrize("path", sources(*PACKAGES))
def test_data_is_never_run(path: str) -> None:
    """Bytes from outside are data: nothing unpickles, evaluates or loads YAML objects."""
    assert reads_data_as_code(parse(path)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(path, allow_pickle=False)", []),
        ("yaml.load(text)", ["yaml.load"]),
        ("ast.literal_eval(text)", []),
    ],
)
def test_running_data_is_seen(source: str, found: list[str]) -> None:
    """The check above finds what it is there to find."""
    assert reads_data_as_code(ast.parse(source)) == found


@pytest.mark.parametrize("path", sources(*PACKAGES, "tests", "benchmarks", "protos"))
def test_no_file_is_too_long_to_read(path: str) -> None:
    """A file of more than 500 lines does more than its name says."""
    assert len((ROOT / path).read_text("utf-8").splitlines()) <= MOST_LINES

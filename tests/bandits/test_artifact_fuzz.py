"""Damaged artifacts: whatever happened to the files, a graph is refused as damaged or loaded whole and equal."""

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandits.artifact import MANIFEST, DamagedGraph, load_graph, save_graph
from bandits.graph import Graph, build_graph, check_graph

COPIES = 2_000
ARRAYS = ("centroids", "item_ptr", "edge_cluster", "cluster_ptr", "cluster_item", "cluster_edge", "published_ms")

Files = dict[str, bytes]
Damage = Callable[[random.Random, Files], str]


def small() -> Graph:
    rng = np.random.default_rng(5)
    edge_item, edge_cluster = np.nonzero(rng.random((12, 5)) < 0.4)
    built = build_graph(
        version="fuzzed",
        centroids=rng.normal(size=(5, 3)),
        item_ids=[f"item-{n}-é" for n in range(12)],
        edge_item=edge_item,
        edge_cluster=edge_cluster,
    )
    return replace(built, published_ms=np.arange(12, dtype=np.int64))


def flip(rng: random.Random, files: Files) -> str:
    """One to four bits of a file."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)
    return name


def cut(rng: random.Random, files: Files) -> str:
    """The end of a file is missing."""
    name = rng.choice(sorted(files))
    files[name] = files[name][: rng.randrange(len(files[name]))]
    return name


def extend(rng: random.Random, files: Files) -> str:
    """A file goes on: by noise, zeros, or its own beginning."""
    name = rng.choice(sorted(files))
    more = rng.randint(1, 64)
    files[name] += rng.choice([rng.randbytes(more), bytes(more), files[name][:more]])
    return name


def swap_bytes(rng: random.Random, files: Files) -> str:
    """Two stretches of a file changed places."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    size = rng.randint(1, 8)
    one, other = rng.randrange(len(data)), rng.randrange(len(data))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    files[name] = bytes(data)
    return name


def swap_files(rng: random.Random, files: Files) -> str:
    """Two files changed names."""
    one, other = rng.sample(sorted(files), 2)
    files[one], files[other] = files[other], files[one]
    return f"{one} and {other}"


def lose(rng: random.Random, files: Files) -> str:
    """A file is gone, or empty."""
    name = rng.choice(sorted(files))
    if rng.random() < 0.5:
        del files[name]
    else:
        files[name] = b""
    return name


def blank(rng: random.Random, files: Files) -> str:
    """A stretch of zeros or ones, as lost sectors read."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    at, size = rng.randrange(len(data)), rng.randint(1, 512)
    data[at : at + size] = bytes([rng.choice([0, 255])]) * len(data[at : at + size])
    files[name] = bytes(data)
    return name


DAMAGES: tuple[Damage, ...] = (flip, cut, extend, swap_bytes, swap_files, lose, blank)


def seal(files: Files) -> None:
    """Make the manifest agree with the files again, as somebody would who knows how."""
    try:
        body = json.loads(files[MANIFEST])
        for name, entry in body["files"].items():
            data = files[f"{name}.npy"]
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        body.pop("sha256", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # the manifest itself is what was damaged
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["sha256"] = hashlib.sha256(canonical.encode("ascii")).hexdigest()
    files[MANIFEST] = json.dumps(body).encode()


def equal(one: Graph, other: Graph) -> bool:
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    return same and (one.version, list(one.item_ids)) == (other.version, list(other.item_ids))


def load(folder: Path, *, mmap: bool) -> Graph | str:
    """The graph, or why it was refused; any other error is the test's."""
    try:
        return load_graph(folder, mmap=mmap)
    except DamagedGraph as error:
        return str(error)


@pytest.mark.parametrize("sealed", [False, True])
def test_two_thousand_damaged_copies_are_refused_or_whole(tmp_path: Path, sealed: bool) -> None:
    """No damage gives another graph or another error. Where the checksums were made to agree with the damage, what
    loads is a graph that holds all invariants: nothing can be read beyond its arrays."""
    seed = int(os.environ.get("FRESHET_TEST_SEED", "20261121"))
    sys.stdout.write(f"seed {seed}, sealed {sealed}\n")  # shown when it fails
    rng = random.Random(seed)
    graph, folder = small(), tmp_path / "graph"
    save_graph(graph, folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = 0
    for number in range(COPIES):
        files = dict(whole)
        damages = rng.choices(DAMAGES, k=rng.choice([1, 1, 1, 2, 3]))
        told = [f"{damage.__name__} {damage(rng, files)}" for damage in damages if files and all(files.values())]
        if sealed:
            seal(files)
        changed = {name for name in whole if files.get(name) != whole[name]}
        for name in changed:
            if name in files:
                (folder / name).write_bytes(files[name])
            else:
                (folder / name).unlink()
        outcome = load(folder, mmap=number % 5 == 0)
        if isinstance(outcome, str):
            refused += 1
            assert str(folder) in outcome, (seed, number, told)
        else:
            check_graph(outcome)
            assert sealed or equal(outcome, graph), (seed, number, told)
        del outcome
        for name in changed:
            (folder / name).write_bytes(whole[name])
    assert refused > COPIES // 2
    assert equal(load_graph(folder), graph)

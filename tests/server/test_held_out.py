"""Held-out users: the world they are read from, what they see, and a run of them against a real server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bandits.artifact import save_graph
from bandits.graph import build_graph
from bandits.simulator.clicks import PositionBased, logarithmic
from server.cli import freshet
from server.demo.child import ServerProcess
from server.demo.exposure import Exposure
from server.demo.held_out_scene import LIKED, OTHER, HeldOutScene
from server.demo.scene import SLATE_SIZE
from streams.corpus.held_out import HeldOut, load_held_out

ITEMS, NEW = 60, 6
EXAMINED = PositionBased(logarithmic(SLATE_SIZE)).chances(np.ones(SLATE_SIZE)).sum()


def make_world() -> HeldOut:
    """40 users in two tastes: each likes ten old items of their own half and the three new ones there."""
    rng = np.random.default_rng(0)
    taste = np.arange(40) % 2
    places = np.eye(8, dtype=np.float32)
    likes = [np.append(20 * t + np.sort(rng.permutation(20)[:10]), 54 + 3 * t + np.arange(3)) for t in taste]
    return HeldOut(
        user_ids=[f"u{user}" for user in range(40)],
        users=places[taste] + 0.1 * rng.standard_normal((40, 8)).astype(np.float32),
        item_ids=[f"i{item}" for item in range(ITEMS)],
        like_ptr=np.arange(41) * 13,
        like_item=np.concatenate(likes).astype(np.int32),
        new_items=np.arange(ITEMS - NEW, ITEMS, dtype=np.int32),
        new_embeddings=places[np.arange(NEW) // 3],
    )


@pytest.fixture(scope="module")
def world() -> HeldOut:
    return make_world()


@pytest.fixture(scope="module")
def folder(world: HeldOut, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as files, and the graph of its old items: two clusters, every old item in both."""
    made = tmp_path_factory.mktemp("held-out")
    world.save(made / "world")
    old = ITEMS - NEW
    graph = build_graph(
        version="earlier",
        centroids=np.eye(8, dtype=np.float32)[:2],
        item_ids=world.item_ids[:old],
        edge_item=np.tile(np.arange(old, dtype=np.int32), 2),
        edge_cluster=np.repeat(np.arange(2, dtype=np.int32), old),
    )
    save_graph(graph, made / "graph")
    return made


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A `freshet serve` over the graph of the old items."""
    process = ServerProcess(
        tmp_path,
        log_file=tmp_path / "log",
        arguments=["--graph", str(folder / "graph")],
        environment={"FRESHET_CONTEXT__K": "2"},
    )
    yield process
    process.stop()


def simulate(folder: Path, *more: object) -> Result:
    arguments = ["--world", str(folder / "world"), "--rate", "2000", *map(str, more)]
    return CliRunner().invoke(freshet, ["simulate", *arguments])


def test_a_world_is_read_back_as_it_was_written(world, folder):
    """Embeddings, likes and new items survive the files; user and item ids too."""
    found = load_held_out(folder / "world")
    for name, value in vars(world).items():
        np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("likes.jsonl", '{"user_id": "u0", "liked": ["nothing"]}\n', "likes.jsonl: line 1.*nothing"),
        ("likes.jsonl", '{"user_id": "u0", "liked": []}\n', "likes.jsonl: expected 40 lines"),
        ("likes.jsonl", "[]\n", "likes.jsonl: line 1"),
        ("likes.jsonl", "{\n", "likes.jsonl: line 1"),
        ("new_item_ids.txt", "stranger\n", "new_item_ids.txt: .*stranger"),
        ("new_item_ids.txt", "i59\n", "new_items.npy: expected shape"),
    ],
)
def test_a_damaged_world_is_refused_by_file_and_line(world, tmp_path, name, body, said):
    """A wrong file never becomes a run of wrong numbers."""
    world.save(tmp_path / "world")
    (tmp_path / "world" / name).write_text(body)
    result = simulate(tmp_path, "--address", "127.0.0.1:1")
    assert result.exit_code == 2
    assert re.fullmatch(f"freshet: --world: .*{said}.*\n", result.stderr)


def test_a_world_needs_no_new_items(world, tmp_path):
    """Both files of new items may be missing."""
    world.save(tmp_path)
    (tmp_path / "new_item_ids.txt").unlink()
    (tmp_path / "new_items.npy").unlink()
    assert load_held_out(tmp_path).new_items.size == 0


def test_slates_are_worth_what_the_users_like(world):
    """Expected, best and uniform of a slate are those of a count by hand."""
    scene = HeldOutScene(world, clicks="position", slates=100)
    own = np.array([item for item in world.like_item[:13].tolist() if item < 54])[:SLATE_SIZE]
    shown = np.array([own, np.arange(20, 25)])
    outcome = scene.react(scene.people(0, 0), np.array([0, 0]), shown, np.random.default_rng(0), step=0.0)
    np.testing.assert_allclose(outcome.expected, [LIKED * EXAMINED, OTHER * EXAMINED])
    np.testing.assert_allclose(outcome.best, LIKED * EXAMINED)
    mean = OTHER + (LIKED - OTHER) * 10 / 54  # new items are not there yet
    np.testing.assert_allclose(outcome.uniform, mean * EXAMINED)
    scene.publish(world.new_items)
    later = scene.react(scene.people(0, 0), np.array([0]), shown[:1], np.random.default_rng(0), step=0.0)
    np.testing.assert_allclose(later.uniform, (OTHER + (LIKED - OTHER) * 13 / 60) * EXAMINED)


def test_the_best_possible_counts_what_is_published(world):
    """Whoever likes fewer items than a slate has gets them all, and the rest of the slate is worth little."""
    one = HeldOut(
        **{**vars(world), "like_ptr": np.minimum(np.arange(41), 1), "like_item": np.array([59], np.int32)}
    )
    scene = HeldOutScene(one, clicks="independent", slates=10)

    def best() -> float:
        shown = np.arange(SLATE_SIZE)[None]
        everyone = scene.people(0, 0)
        return scene.react(everyone, np.array([0]), shown, np.random.default_rng(0), step=0.0).best[0]

    assert best() == pytest.approx(SLATE_SIZE * OTHER)
    scene.publish(np.array([59]))
    assert best() == pytest.approx(LIKED + (SLATE_SIZE - 1) * OTHER)


def test_exposure_equals_a_count_by_hand():
    """Items shown K times, and the slates that new ones waited, are those of a plain loop."""
    rng = np.random.default_rng(3)
    exposure = Exposure(30, np.arange(20, 30), slates=200)
    counts, reached, at = np.zeros(30, int), {}, 0
    published = dict.fromkeys(range(20), 0)
    for turn in range(100):
        if turn == 20:
            exposure.publish(np.arange(20, 28))
            published |= dict.fromkeys(range(20, 28), at)
        shown = rng.integers(0, 20 if turn < 20 else 28, (2, 5))
        exposure.show(shown)
        at += 2
        for item in shown.ravel().tolist():
            counts[item] += 1
            reached.setdefault((item, counts[item]), at)
    found = exposure.summary()
    for level in (1, 5, 20):
        assert found["shown_at_least"][str(level)] == (counts >= level).sum()
        waits = [reached[item, level] - published[item] for item in range(20, 28) if (item, level) in reached]
        assert found["new_shown_at_least"][str(level)] == len(waits)
        assert found["new_slates_until"][str(level)]["p50"] == np.median(waits)
    assert (found["items"], found["new_items"], found["curve"][-1]["slates"]) == (28, 8, 200)


def test_new_items_are_published_found_and_learned(folder, server):
    """Against a real server every new item is shown, most of them 20 times, and users earn ever more."""
    addresses = server.addresses
    where = ("--address", addresses["serving"], "--operations-address", addresses["operations"])
    result = simulate(folder, *where, "--slates", 3_000, "--mode", "ucb", "--json")
    assert result.exit_code == 0, result.stderr
    body = json.loads(result.stdout)
    found = body["exposure"]
    assert (found["items"], found["new_items"], found["new_shown_at_least"]["1"]) == (ITEMS, NEW, NEW)
    assert found["new_shown_at_least"]["20"] >= NEW / 2
    assert body["last"]["expected"] > 1.3 * body["last"]["uniform"]
    assert 0 < body["same_for_all"] < body["whole"]["best"]
    missed = (body["whole"]["best"] - body["whole"]["expected"]) * body["slates"]
    assert body["regret"] == pytest.approx(missed)

    again = simulate(folder, "--address", addresses["serving"], "--slates", 20)
    assert again.exit_code == 3  # the server has the new items already
    assert "--leave-out" in again.stderr


def test_runs_are_drawn_beside_each_other(folder, server, tmp_path):
    """The picture has both runs by name; without new items to publish the run is told as text."""
    pytest.importorskip("matplotlib")
    where = ("--address", server.addresses["serving"], "--slates", 100)
    first = simulate(folder, *where, "--json")
    (tmp_path / "first.json").write_text(first.stdout)
    picture = ("--picture", tmp_path / "both.svg", "--beside", tmp_path / "first.json")
    second = simulate(folder, *where, "--mode", "uniform", *picture)
    assert second.exit_code == 0, second.stderr
    assert "of 54 items shown at least" in second.stdout
    assert (tmp_path / "both.svg").read_text().startswith("<?xml")

    later = ("--picture", str(tmp_path / "later.png"), "--beside", str(tmp_path / "first.json"))
    alone = CliRunner().invoke(freshet, ["simulate", *later])
    assert alone.exit_code == 0, alone.stderr
    assert (tmp_path / "later.png").read_bytes().startswith(b"\x89PNG")
    wrong = CliRunner().invoke(freshet, ["simulate", "--picture", str(tmp_path / "a.gif"), *later[2:]])
    assert wrong.exit_code == 2
    assert "expected a name ending in .svg or .png" in wrong.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--world", ".", "--rounds", "5"],
        ["--world", ".", "--address", "127.0.0.1:1", "--drift", "5"],
        ["--address", "127.0.0.1:1", "--slates", "50"],
    ],
)
def test_options_that_do_nothing_are_refused(arguments):
    """Half of the options are for one world, half for the other; none is passed over."""
    result = CliRunner().invoke(freshet, ["simulate", *arguments])
    assert result.exit_code == 2
    assert "world" in result.stderr


def test_a_result_of_another_kind_is_not_drawn(folder, tmp_path):
    """What --beside cannot draw is said before the run, not after it."""
    (tmp_path / "other.json").write_text(json.dumps({"curve": []}))
    result = simulate(folder, "--address", "127.0.0.1:1", "--beside", tmp_path / "other.json")
    assert result.exit_code == 2
    assert "other.json" in result.stderr


def test_users_need_no_training_library():
    """Neither JAX nor faiss nor matplotlib is loaded to read a world and to let its users in."""
    program = "import sys, server.demo.held_out_scene, streams.corpus.held_out; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"jax", "faiss", "matplotlib"} & set(done.stdout.split())


@pytest.mark.slow
def test_exploring_finds_new_films_and_exploiting_does_not(data_dir, tmp_path):
    """MovieLens by the documented commands, briefly trained: new films reach 20 impressions."""
    pytest.importorskip("jax")
    pytest.importorskip("faiss")
    towers, world = tmp_path / "towers", tmp_path / "world"
    invoke(
        "train", "movielens", data_dir / "movielens100k", "--out", towers, "--test-share", 0.4, "--held-out", world
    )
    files = ("--users", towers / "user_embeddings.npy", "--items", towers / "item_embeddings.npy")
    more = ("--item-ids", towers / "item_ids.txt", "--leave-out", world / "new_item_ids.txt")
    invoke("build-graph", *files, *more, "--clusters", 8, "--top-w", 40, "--out", tmp_path / "graph")
    found = {}
    for mode in ("ucb", "exploit"):
        arguments = ["--graph", str(tmp_path / "graph")]
        served = ServerProcess(tmp_path / mode, log_file=tmp_path / "log", arguments=arguments, environment={})
        try:
            where = ("--address", served.addresses["serving"], "--rate", 1_000, "--mode", mode)
            published = ("--operations-address", served.addresses["operations"], "--slates", 3_000)
            found[mode] = invoke("simulate", "--world", world, *where, *published)
        finally:
            served.stop()
    explored, exploited = (found[mode]["exposure"] for mode in ("ucb", "exploit"))
    assert explored["new_items"] == exploited["new_items"] >= 100
    assert explored["new_shown_at_least"]["20"] > 10 + 2 * exploited["new_shown_at_least"]["20"]
    assert found["ucb"]["last"]["expected"] > 1.5 * found["ucb"]["last"]["uniform"]


def invoke(command: str, *arguments: object) -> dict[str, Any]:
    """The result of a command that succeeds."""
    short = ["--epochs", "1", "--dim", "16"] if command == "train" else []
    result = CliRunner().invoke(freshet, [command, *map(str, arguments), *short, "--json"])
    assert result.exit_code == 0, result.stderr
    body: dict[str, Any] = json.loads(result.stdout)
    return body

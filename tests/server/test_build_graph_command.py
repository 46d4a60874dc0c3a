"""`freshet build-graph`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bandits.artifact import load_graph
from server.commands.build_graph import build_graph
from server.commands.output import BAD_INPUT, NOT_RUNNING
from streams.overlap_folder import load_overlap

pytest.importorskip("faiss")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "users.npy", rng.standard_normal((400, 8)).astype(np.float32))
    np.save(tmp_path / "items.npy", rng.standard_normal((90, 8)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"item {number}\n" for number in range(90)))
    return tmp_path


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    files = {"--users": "users.npy", "--items": "items.npy", "--item-ids": "ids.txt", "--out": out}
    paths = [part for option, name in files.items() for part in (option, str(folder / name))]
    return [*paths, "--clusters", "20", "--top-w", "3", "--seed", "4", *more]


def test_a_corpus_becomes_a_graph_and_a_report(corpus):
    """The graph loads, and the report's numbers are the graph's."""
    result = CliRunner().invoke(build_graph, arguments(corpus, "g", "--report", str(corpus / "r"), "--json"))
    assert result.exit_code == 0, result.output
    report, graph = json.loads(result.stdout), load_graph(corpus / "g")
    assert json.loads((corpus / "r" / "graph.json").read_text()) == report
    assert (report["n_clusters"], report["n_items"], report["n_edges"]) == (20, 90, 60)
    assert (graph.n_clusters, graph.n_items, graph.n_edges) == (20, 90, 60)
    assert graph.item_ids[7] == "item 7"
    degree = np.diff(graph.item_ptr)
    assert report["items_without_cluster"] == (degree == 0).sum() > 0
    unreached = (corpus / "r" / "unreached_items.txt").read_text().splitlines()
    assert len(unreached) == report["items_unreached"]
    assert {graph.item_ids[number] for number in np.flatnonzero(degree == 0)} <= set(unreached)


def test_items_to_be_published_later_are_left_out(corpus):
    """The graph is that of the other items, ids and all."""
    left_out = corpus / "later.txt"
    left_out.write_text("item 0\nitem 7\n")
    result = CliRunner().invoke(build_graph, arguments(corpus, "g", "--leave-out", str(left_out), "--json"))
    assert result.exit_code == 0, result.output
    graph = load_graph(corpus / "g")
    assert list(graph.item_ids) == [f"item {number}" for number in range(90) if number not in (0, 7)]
    kept = np.delete(np.arange(90), [0, 7])
    np.save(corpus / "items.npy", np.load(corpus / "items.npy")[kept])
    (corpus / "ids.txt").write_text("".join(f"item {number}\n" for number in kept))
    CliRunner().invoke(build_graph, arguments(corpus, "h"))
    assert graph.version == load_graph(corpus / "h").version


@pytest.mark.parametrize("ids", [["stranger"], [f"item {number}" for number in range(90)]])
def test_leaving_out_strangers_or_everything_is_refused(corpus, ids):
    """A misspelt id would be built in after all; a graph of nothing is no graph."""
    (corpus / "later.txt").write_text("".join(f"{item_id}\n" for item_id in ids))
    result = CliRunner().invoke(build_graph, arguments(corpus, "g", "--leave-out", str(corpus / "later.txt")))
    assert result.exit_code == BAD_INPUT
    assert "later.txt" in result.stderr
    assert not (corpus / "g").exists()


def test_a_report_is_a_table_and_a_picture(corpus):
    """Without --json a person reads coverage and degrees, and gets a PNG."""
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(build_graph, arguments(corpus, "g", "--report", str(corpus / "r")))
    assert result.exit_code == 0, result.output
    for words in ("clusters of an item", "coverage", "can reach"):
        assert words in result.output
    assert (corpus / "r" / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_writes_the_same_bytes_on_any_number_of_threads(corpus):
    """Two processes, one with one thread and one with two, write equal directories."""
    program = "from server.commands.build_graph import build_graph as b; b()"
    for threads in ("1", "2"):
        variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", program, *arguments(corpus, f"g{threads}")]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **variables})
    files = sorted(path.name for path in (corpus / "g1").iterdir())
    assert files
    for name in files:
        assert (corpus / "g1" / name).read_bytes() == (corpus / "g2" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--clusters", "401"), "expected 401 or more (clusters), got 400"),
        (("--items", "{}/nothing.npy"), "nothing.npy: expected a file"),
        (("--item-ids", "{}/users.npy"), "expected text in UTF-8"),
        (("--out", "{}"), "expected a new directory"),
        (("--out", "{}/a/b"), "expected a new directory in one that exists"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(corpus, more, message):
    """Exit code 2, the reason, and no graph."""
    before = sorted(corpus.iterdir())
    more = [part.format(corpus) for part in more]
    result = CliRunner().invoke(build_graph, arguments(corpus, "g", *more))
    assert result.exit_code == BAD_INPUT
    assert message in result.output
    assert sorted(corpus.iterdir()) == before


def test_ids_are_asked_for_where_the_file_has_none(corpus):
    """A .npy file has no ids, so they must come from somewhere."""
    given = arguments(corpus, "g")
    at = given.index("--item-ids")
    result = CliRunner().invoke(build_graph, given[:at] + given[at + 2 :])
    assert result.exit_code == BAD_INPUT
    assert "expected --item-ids" in result.output


def test_a_missing_library_is_named(corpus, monkeypatch):
    """Without faiss the message says what to install."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = CliRunner().invoke(build_graph, arguments(corpus, "g"))
    assert result.exit_code == NOT_RUNNING
    assert "freshet[graph]" in result.output


def test_clusters_made_anew_come_with_the_map_of_what_they_inherit(corpus: Path) -> None:
    """From the same users the map is not far from the identity; a server loads both together."""
    assert CliRunner().invoke(build_graph, arguments(corpus, "old")).exit_code == 0
    more = ("--inherit-from", str(corpus / "old"), "--clusters-per-user", "3", "--seed", "9", "--version", "anew")
    result = CliRunner().invoke(build_graph, arguments(corpus, "new", *more))
    assert result.exit_code == 0, result.output
    stored = load_overlap(corpus / "new" / "overlap")
    stored.check(load_graph(corpus / "old"), load_graph(corpus / "new"))
    owner = np.repeat(np.arange(20), np.diff(stored.overlap.ptr))
    kept = stored.overlap.share[owner == stored.overlap.cluster]
    assert (kept > 0.75 * 2**20).all()
    np.save(corpus / "fewer.npy", np.ones((3, 8), np.float32))
    more = ("--inherit-from", str(corpus / "old"), "--old-users", str(corpus / "fewer.npy"))
    refused = CliRunner().invoke(build_graph, arguments(corpus, "newer", *more))
    assert refused.exit_code == BAD_INPUT
    assert "expected 400, the same as the new ones, got 3" in refused.output

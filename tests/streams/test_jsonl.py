"""The JSONL log format: what is read is what is written, and what is wrong is named."""

import copy
import gzip

import numpy as np
import orjson
import pytest

from bandits.graph import build_graph
from bandits.join_rule import JoinRule
from streams.evaluation import evaluate, parse_target, read_source
from streams.evaluation.parameters import learn
from streams.evaluation.report import EvaluationSettings
from streams.logs import LogError, read_jsonl
from streams.replay import replay
from tests.streams.simulated_store import BACKEND, as_lines, fill_store, log_events, simulate

LINE = {
    "request_id": "r1",
    "occurred_at_ms": 1_750_000_000_000,
    "context": {"cluster_ids": [2, 0], "weights": [0.25, 0.75]},
    "items": [
        {"item_id": "a", "position": 0, "propensity": 0.5, "conditional_propensity": 0.5},
        {"item_id": "b", "position": 1, "propensity": 0.25, "conditional_propensity": 1.0},
    ],
    "clicks": [{"item_id": "b", "reward": 1, "kind": "click", "occurred_at_ms": 1_750_000_001_000}],
    "candidates": ["a", "b", "c"],
}


def write(path, lines):
    data = b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def changed(path, value):
    """LINE with the field at a path of keys and indices replaced, or removed if the value is `...`."""
    line = copy.deepcopy(LINE)
    at = line
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return line


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_a_line_is_read_as_something_else(tmp_path, name):
    """Ids, times, positions, propensities, context, candidates and rewards are those of the file, by time."""
    later = copy.deepcopy(LINE) | {"request_id": "r0", "occurred_at_ms": 1_750_000_000_001, "clicks": []}
    log = read_jsonl(write(tmp_path / name, [later, b"\n", LINE]))
    events = log.events
    assert list(events.request_ids) == ["r1", "r1", "r0", "r0"]
    assert list(events.item_ids) == ["a", "b", "a", "b"]
    assert events.clicked.tolist() == [0, 1, 0, 0]
    assert events.position.tolist() == [0, 1, 0, 1]
    assert events.propensity.tolist() == [0.5, 0.25, 0.5, 0.25]
    assert log.conditional.tolist() == [0.5, 1.0, 0.5, 1.0]
    clusters, weights = events.context_of(0)
    assert (clusters.tolist(), weights.tolist()) == ([0, 2], [0.75, 0.25])
    assert [events.graph.item_ids[i] for i in log.candidates.tolist()] == ["a", "b", "c"] * 2


def test_defaults_are_other_than_documented(tmp_path):
    """Without position the place in the list counts; without propensity it is unknown; clicks are worth 1."""
    line = changed(("candidates",), ...)
    line["items"] = [{"item_id": "a"}, {"item_id": "b"}]
    line["clicks"] = [{"item_id": "b"}]
    log = read_jsonl(write(tmp_path / "x.jsonl", [line]))
    assert log.events.position.tolist() == [0, 1]
    assert log.events.propensity.tolist() == [0.0, 0.0]
    assert log.events.clicked.tolist() == [0.0, 1.0]
    assert np.isnan(log.conditional).all()
    assert log.candidate_ends is None


def test_clicks_are_worth_something_else_than_the_rule_says(tmp_path):
    """The first click in the window counts, with the weight of its kind, and others do not."""
    rule = JoinRule(kind_weights={"click": 0.25, "dwell": 0.5}, window_ms=1_000)
    at = LINE["occurred_at_ms"]
    line = copy.deepcopy(LINE)
    line["clicks"] = [
        {"item_id": "a", "occurred_at_ms": at + 1_001},
        {"item_id": "b", "kind": "click", "occurred_at_ms": at + 900},
        {"item_id": "b", "kind": "dwell", "reward": 1.5, "occurred_at_ms": at + 100},
    ]
    log = read_jsonl(write(tmp_path / "x.jsonl", [line]), rule=rule)
    assert log.events.clicked.tolist() == [0.0, 0.75]


def test_a_repeated_line_counts_twice(tmp_path):
    """The unit is (request, item): a line that comes again changes nothing."""
    once = read_jsonl(write(tmp_path / "once.jsonl", [LINE]))
    twice = read_jsonl(write(tmp_path / "twice.jsonl", [LINE, LINE]))
    assert list(twice.events.item_ids) == list(once.events.item_ids)
    assert twice.events.clicked.tolist() == once.events.clicked.tolist()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{\n", "line 2: expected a JSON object, got"),
        (b"[]\n", "line 2: line: expected a JSON object, got list"),
        (changed(("request_id",), ...), "line 2: request_id: expected 1 to 256 bytes, got 0 bytes"),
        (changed(("request_id",), 7), "request_id: expected a string, got int"),
        (changed(("occurred_at_ms",), ...), "occurred_at_ms: expected Unix milliseconds > 0, got none"),
        (changed(("occurred_at_ms",), 1.5), "occurred_at_ms: expected a whole number"),
        (changed(("context",), ...), "context.cluster_ids: expected 1 to 64 clusters, got 0"),
        (changed(("context", "cluster_ids", 1), -1), "context.cluster_ids[1]: expected a whole number"),
        (changed(("context", "cluster_ids", 1), True), "context.cluster_ids[1]: expected a whole number"),
        (changed(("context", "weights", 0), 1.5), "context.weights[0]: expected 0 < weight <= 1, got 1.5"),
        (changed(("context", "weights", 0), "0.5"), "context.weights[0]: expected a number, got 0.5"),
        (changed(("items",), []), "items: expected 1 to 5000 items, got 0"),
        (changed(("items",), {}), "items: expected a list, got dict"),
        (changed(("items", 1), "b"), "items[1]: expected an object, got str"),
        (changed(("items", 1, "item_id"), "a"), "items[1].item_id: expected distinct values, got 'a' again"),
        (changed(("items", 1, "position"), -1), "items[1].position: expected a whole number, 0 to 4999, got -1"),
        (changed(("items", 1, "propensity"), 1.5), "items[1].propensity: expected 0 (unknown) or 0 < p <= 1"),
        (changed(("items", 1, "propensity"), None), "items[1].propensity: expected a number, got None"),
        (
            changed(("items", 1, "conditional_propensity"), 0),
            "items[1].conditional_propensity: expected 0 < p <= 1, got 0",
        ),
        (changed(("clicks", 0, "item_id"), "c"), 'clicks[0].item_id: expected an item of this line, got "c"'),
        (changed(("clicks", 0, "kind"), "buy"), 'clicks[0].kind: expected one of "click", got "buy"'),
        (changed(("clicks", 0, "reward"), -1), "clicks[0].reward: expected finite and >= 0, got -1.0"),
        (changed(("candidates",), ["a", "c"]), 'items[1].item_id: expected one of the candidates, got "b"'),
        (changed(("candidates",), ["a", "b", "b"]), "candidates: expected distinct items, got 1 repeated"),
        (changed(("candidates", 2), 3), "candidates[2]: expected a string, got int"),
    ],
)
def test_a_wrong_line_is_read(tmp_path, line, message):
    """The first thing that is wrong is named by file, line, field, expected and got."""
    path = write(tmp_path / "x.jsonl", [LINE, line])
    with pytest.raises(LogError) as error:
        read_jsonl(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: line 2: ")


def test_a_wrong_file_is_read(tmp_path):
    """A file that is missing, empty, cut short, or names candidates only sometimes is refused."""
    (tmp_path / "empty.jsonl").touch()
    cut = write(tmp_path / "cut.jsonl.gz", [LINE] * 50)
    cut.write_bytes(cut.read_bytes()[:-9])
    mixed = write(tmp_path / "mixed.jsonl", [LINE, changed(("candidates",), ...) | {"request_id": "r2"}])
    for name, message in (
        ("none.jsonl", "expected a readable file"),
        ("empty.jsonl", "expected at least one line, got none"),
        ("cut.jsonl.gz", "expected a readable file"),
        (mixed.name, "expected candidates on every line or on none, got them on 1 lines"),
    ):
        with pytest.raises(LogError, match=message):
            read_jsonl(tmp_path / name)


def test_memory_is_claimed_for_a_huge_cluster_number(tmp_path):
    """A cluster number of two billion asks for a graph instead of making one."""
    line = changed(("context", "cluster_ids", 1), 2**31 - 1)
    with pytest.raises(LogError, match="expected a graph for 3 items and 2147483648 clusters, got none"):
        read_jsonl(write(tmp_path / "x.jsonl", [line]))


def test_candidates_that_the_graph_lacks_are_dropped(tmp_path):
    """A candidate that the given graph does not have is an error, not a smaller choice."""
    graph = build_graph(
        version="v1", centroids=[], n_clusters=3, item_ids=["a", "b"], edge_item=[0, 1], edge_cluster=[0, 2]
    )
    with pytest.raises(LogError, match="candidates: expected items of the graph, got 1 that it does not have"):
        read_jsonl(write(tmp_path / "x.jsonl", [LINE]), graph=graph)


def test_a_store_and_its_events_as_jsonl_disagree(tmp_path):
    """The same events streamed through a loop and written as lines give the same estimates."""
    simulated = simulate()
    events = log_events(simulated, 600)
    fill_store(tmp_path / "data", simulated, events)
    path = write(tmp_path / "log.jsonl", as_lines(events))
    reports = []
    for source, kind in ((tmp_path / "data", "store"), (path, "jsonl")):
        log = read_source(source, kind=kind, graph=simulated.graph)
        reports.append(
            evaluate(
                log,
                [parse_target("ucb"), parse_target("epsilon_greedy:epsilon=0.5")],
                sums=learn(log, BACKEND),
                backend=BACKEND,
                settings=EvaluationSettings(resamples=200),
                progress=lambda done: None,
            )
        )
    store, lines = (
        [(policy.policy, row.estimator, row.value) for policy in report.policies for row in policy.rows]
        for report in reports
    )
    # Only the store knows that its slates were uniform, so only it has estimates by prefix.
    assert [one for one in store if one[1] not in ("rips", "cascade_dr")] == lines
    assert len(lines) == 16
    assert reports[0].logged == reports[1].logged


def test_replay_learns_something_else_than_the_file_says(tmp_path):
    """`freshet replay` counts every shown item and every click of a file once."""
    events = log_events(simulate(), 200)
    log = read_jsonl(write(tmp_path / "log.jsonl", as_lines(events))).events
    report = replay(
        log,
        rule=JoinRule(),
        backend=BACKEND,
        batch_rows=50,
        clock=lambda: 0.0,
        progress=lambda rows: None,
    )
    assert report.counts["impressions_accepted"] == 600
    assert report.counts["clicks_joined"] == sum(len(clicks) for _, clicks in events)

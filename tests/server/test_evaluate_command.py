"""The command `evaluate`: its table, its JSON, its exit codes."""

import orjson
import pytest
from click.testing import CliRunner

from server.commands.evaluate import evaluate
from server.commands.replay import replay
from tests.streams.simulated_store import as_lines, fill_store, log_events, simulate

FAST = ["--backend", "numpy", "--resamples", "200", "--draws", "50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data directory, and the same events as JSONL with candidates."""
    folder, simulated = tmp_path_factory.mktemp("evaluate"), simulate()
    events = log_events(simulated, 900)
    fill_store(folder / "data", simulated, events)
    lines = as_lines(events, candidates=list(simulated.graph.item_ids))
    (folder / "log.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return folder


def run(*arguments):
    return CliRunner().invoke(evaluate, [*map(str, arguments), *FAST])


def test_a_store_cannot_be_evaluated(folder):
    """A data directory gives a table with the logged policy, every estimator and its intervals; exit code 0."""
    result = run(folder / "data", "--policy", "epsilon_greedy:epsilon=0.3")
    assert result.exit_code == 0, result.output
    for word in ("logged policy", "on_policy", "clipped_ips", "snips", "switch_dr", "effective sample size"):
        assert word in result.output
    assert "learned from the first 450 slates, evaluated on the 450 after" in result.output
    assert "rips: not estimated: effective sample size" in result.output


def test_json_holds_something_else_than_json(folder):
    """With --json standard output is one JSON object with everything that the table says."""
    result = run(folder / "log.jsonl", "--policy", "uniform", "--policy", "thompson:thompson_scale=2", "--json")
    assert result.exit_code == 0, result.output
    report = orjson.loads(result.stdout)
    assert report["refused"] is False
    assert [policy["policy"][:8] for policy in report["policies"]] == ["uniform", "thompson"]
    uniform = {row["estimator"]: row for row in report["policies"][0]["rows"]}
    assert uniform["ips"]["value"] == pytest.approx(report["logged"]["rows"][0]["value"])
    assert uniform["ips"]["anytime"]["low"] < uniform["ips"]["value"] < uniform["ips"]["anytime"]["high"]
    assert uniform["snips"]["anytime"] is None


def test_a_refusal_passes_for_success(folder):
    """Too few effective rounds: the reasons are printed, no estimate is, and the exit code is 1."""
    result = run(folder / "data", "--policy", "ucb", "--min-effective", "1000")
    assert result.exit_code == 1
    assert "REFUSED: effective sample size" in result.output
    assert "snips" not in result.output


def test_parameters_of_a_store_are_not_used(folder):
    """With --parameters every slate is evaluated, and the report warns of learning from the same slates."""
    result = run(folder / "log.jsonl", "--policy", "exploit:top_m=4", "--parameters", folder / "data", "--json")
    assert result.exit_code == 0, result.output
    report = orjson.loads(result.stdout)
    assert report["slates"] == 900
    assert "estimates are too high" in report["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--policy", "uniform"], 2, "expected SOURCE and at least one --policy"),
        (["{}/data"], 2, "expected SOURCE and at least one --policy"),
        (["{}/data", "--policy", "best"], 2, "mode: expected one of"),
        (["{}", "--policy", "uniform"], 2, "expected a data directory, .jsonl, .jsonl.gz or .csv"),
        (["{}/data/store/CURRENT", "--kind", "jsonl", "--policy", "uniform"], 2, "line 1: expected a JSON object"),
        (["{}", "--kind", "store", "--policy", "uniform"], 3, "there is no store in"),
        (["{}/data", "--candidates", "logged", "--policy", "uniform"], 2, "the log names no candidates"),
        (["{}/data", "--policy", "uniform", "--graph", "{}"], 2, "manifest"),
        (
            ["{}/log.jsonl", "--kind", "open-bandit", "--policy", "uniform", "--parameters", "{}/data"],
            2,
            "expected a store or JSONL as SOURCE, got open-bandit",
        ),
    ],
)
def test_what_is_wrong_is_not_told(folder, arguments, code, message):
    """Wrong usage, an unreadable log or store: one sentence, and the documented exit code."""
    result = run(*(argument.format(folder) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_reference_values_cannot_be_checked(data_dir, tmp_path):
    """--reference recomputes the values of another library, 0 where all agree and 2 where there are none."""
    result = CliRunner().invoke(evaluate, ["--reference", str(data_dir / "obd_ope"), "--json"])
    assert result.exit_code == 0, result.output
    assert len(orjson.loads(result.stdout)["compared"]) == 36
    assert CliRunner().invoke(evaluate, ["--reference", str(tmp_path)]).exit_code == 2


def test_real_refusal_passes_for_success(data_dir):
    """The Thompson log of campaign women is refused for its weights."""
    result = run(data_dir / "obd" / "bts" / "women" / "women.csv", "--policy", "uniform", "--train-share", "0")
    assert result.exit_code == 1
    assert "effective sample size 2 of 10,000, largest weight 2.174e+04" in result.output


def test_jsonl_cannot_be_replayed(folder):
    """`freshet replay jsonl` folds the same file."""
    result = CliRunner().invoke(replay, ["jsonl", str(folder / "log.jsonl"), "--backend", "numpy", "--json"])
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout)["rows"] == 2_700

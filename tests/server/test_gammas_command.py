"""The command `gammas`: its setting, its refusals, its exit codes."""

import json
import tomllib

import orjson
from click.testing import CliRunner

from server.commands.gammas import gammas
from tests.bandits.test_position_bias import GAMMA, ITEMS, NOW_MS, shown


def write(path, slates, chance):
    items, propensity, clicked = shown(slates, seed=9, chance=chance)
    lines = [
        {
            "request_id": f"r{number}",
            "occurred_at_ms": NOW_MS + number,
            "context": {"cluster_ids": [0], "weights": [1.0]},
            "items": [
                {"item_id": ITEMS[item], "position": at, "propensity": float(propensity[number, at])}
                for at, item in enumerate(items[number].tolist())
            ],
            "clicks": [
                {"item_id": ITEMS[item], "reward": 1, "occurred_at_ms": NOW_MS + number}
                for at, item in enumerate(items[number].tolist())
                if clicked[number, at]
            ],
        }
        for number in range(slates)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


def test_the_setting_that_is_printed_is_the_one_of_the_world(tmp_path):
    """A table for people, ending in lines for the settings file; JSON for programs."""
    log = write(tmp_path / "log.jsonl", 3_000, chance=0.5)
    result = CliRunner().invoke(gammas, [str(log)])
    assert result.exit_code == 0, result.output
    printed = tomllib.loads(result.output[result.output.index("[join]") :])["join"]["position_gammas"]
    assert max(abs(one - other) for one, other in zip(printed, GAMMA, strict=True)) < 0.1
    told = json.loads(CliRunner().invoke(gammas, [str(log), "--json"]).output)
    assert told["position_gammas"] == printed
    assert [row["shown"] for row in told["positions"]] == [3_000] * 6


def test_without_chance_there_is_no_answer(tmp_path):
    """Slots that were filled by rank alone: exit code 1 and what to do; no setting is printed."""
    log = write(tmp_path / "log.jsonl", 200, chance=0.0)
    result = CliRunner().invoke(gammas, [str(log)])
    assert result.exit_code == 1
    assert "raise slate.top_m or slate.explore_share" in result.stderr
    assert "[join]" not in result.stdout

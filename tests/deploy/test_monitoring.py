"""Rules and board speak of metrics that exist: an alert over a metric that was renamed never fires."""

import json
import re

import pytest
from make_board import BOARD, make_board

_OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
_SUFFIXES = ("", "_total", "_bucket", "_sum", "_count", "_info")
_WORD = re.compile(r"\b(?:freshet|process)_[a-z_]+\b|\bup\b")


@pytest.fixture(scope="module")
def known(deploy_dir):
    """Every name that a server or a worker can show."""
    sources = (deploy_dir.parent / "server").rglob("*.py")
    names = {name for path in sources for name in re.findall(r'"(freshet_[a-z_]+)"', path.read_text())}
    assert len(names) > 50
    return {name + suffix for name in names for suffix in _SUFFIXES} | _OTHERS


def expressions_of_rules(deploy_dir):
    text = (deploy_dir / "prometheus" / "alerts.yaml").read_text()
    found = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(found) == text.count("alert: ") > 20
    return found


def test_rules_are_over_metrics_that_exist(deploy_dir, known):
    """Each name in each expression is one that is shown somewhere."""
    for expression in expressions_of_rules(deploy_dir):
        names = set(_WORD.findall(expression))
        assert names, expression
        assert names <= known, (expression, names - known)


def test_every_metric_to_be_watched_by_the_manual_has_a_rule_or_a_panel(deploy_dir, known):
    """What docs/operate.md says to alert on is in the rules or on the board, but for what has no threshold."""
    manual = (deploy_dir.parent / "docs" / "operate.md").read_text()
    section = manual[manual.index("## Metrics") : manual.index("## Bound the exploration")]
    told = {name for line in section.splitlines() if line.startswith("| `") for name in _WORD.findall(line)}
    shown = " ".join([*expressions_of_rules(deploy_dir), BOARD.read_text()])
    of_several_processes = {name for name in told if name.startswith("freshet_process_")}
    missing = {name for name in told - of_several_processes if name not in shown}
    assert missing <= {"freshet_graph_loads_total", "freshet_graph_partitions", "freshet_graph_partitions_refusing"}


def test_the_board_is_what_its_source_makes(known):
    """Nobody edits freshet.json by hand; its panels have places of their own and speak of metrics that exist."""
    board = json.loads(BOARD.read_text())
    assert board == make_board()
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            assert set(_WORD.findall(target["expr"])) <= known, target["expr"]
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    cells = [(x + dx, y + dy) for h, w, x, y in places for dx in range(w) for dy in range(h)]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24

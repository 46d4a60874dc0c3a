"""Writes freshet.json, the Grafana board: `python deploy/grafana/make_board.py`.

The board answers three questions from top to bottom: is it safe, what does it learn and how fast, what do callers
feel. It is made here because the panels differ in a title and an expression, and in nothing else.
"""

import json
from pathlib import Path
from typing import Any

BOARD = Path(__file__).with_name("freshet.json")
_WIDTH, _HEIGHT, _PER_ROW = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${source}"}

Series = list[tuple[str, str]]  # expression, legend


def _rates(metric: str, *by: str, where: str = "", over: str = "1m") -> str:
    """Rates of a counter, added up by some labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{where}[{over}]))"


def _quantile(q: float, metric: str, *by: str, where: str = "") -> str:
    return f"histogram_quantile({q}, {_rates(metric + '_bucket', 'le', *by, where=where, over='5m')})"


def _share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


_SERVED = "freshet_feedback_served_delay_seconds"
_TAKES = "freshet_request_duration_seconds"
_SHOWN, _EXPLORED = "freshet_slate_items_total", "freshet_slate_items_explored_total"

# Title, unit of Grafana, expression, and the value from which on it is bad.
_STATS: list[tuple[str, str, str, float]] = [
    ("Do not answer", "none", 'count(up{job=~"freshet-.*"} == 0) or vector(0)', 1),
    ("Not ready", "none", "count(freshet_ready == 0) or vector(0)", 1),
    ("Served parameters are old by", "s", "max(freshet_staleness_seconds)", 5),
    ("Workers are behind by", "s", "max(freshet_worker_lag_seconds) or vector(0)", 30),
    ("Slates, p99", "s", _quantile(0.99, _TAKES, where='{rpc=~"Score|Recommend"}'), 0.05),
    ("Feedback to served, p99", "s", _quantile(0.99, _SERVED), 1),
]
# Title, unit, and expressions with their legends.
_ROWS: list[tuple[str, list[tuple[str, str, Series]]]] = [
    (
        "What it learns, and how fast",
        [
            (
                "Reward an impression, of what was learned in the last 10 minutes",
                "percentunit",
                [
                    (
                        _share(
                            "sum(deriv(freshet_learned_rewards[10m]))",
                            "sum(deriv(freshet_learned_impressions[10m]))",
                        ),
                        "reward",
                    )
                ],
            ),
            (
                "Events by what became of them",
                "eps",
                [(_rates("freshet_feedback_outcomes_total", "outcome") + " > 0", "{{outcome}}")],
            ),
            ("Feedback to served", "s", [(_quantile(0.5, _SERVED), "p50"), (_quantile(0.99, _SERVED), "p99")]),
            (
                "Explored share of what is shown",
                "percentunit",
                [(_share(_rates(_EXPLORED, "surface"), _rates(_SHOWN, "surface")), "{{surface}}")],
            ),
            (
                "Items by state of exploration",
                "short",
                [("max by (state) (freshet_exploration_items)", "{{state}}")],
            ),
            (
                "Budget left for exploration",
                "short",
                [("min by (surface) (freshet_exploration_budget_left_items)", "{{surface}}")],
            ),
        ],
    ),
    (
        "What callers feel",
        [
            ("Calls", "reqps", [(_rates("freshet_requests_total", "rpc"), "{{rpc}}")]),
            ("p99 by call", "s", [(_quantile(0.99, _TAKES, "rpc"), "{{rpc}}")]),
            (
                "Calls that failed or were refused",
                "reqps",
                [
                    (
                        _rates("freshet_requests_total", "rpc", "code", where='{code!="OK"}') + " > 0",
                        "{{rpc}} {{code}}",
                    ),
                    (_rates("freshet_requests_refused_total", "reason") + " > 0", "refused: {{reason}}"),
                ],
            ),
        ],
    ),
    (
        "What Kafka workers do",
        [
            ("Records not yet on disk", "short", [("sum by (topic) (freshet_worker_lag_records)", "{{topic}}")]),
            (
                "Facts learned",
                "eps",
                [
                    (_rates("freshet_facts_applied_total"), "applied"),
                    (_rates("freshet_facts_unknown_total"), "of unknown items"),
                ],
            ),
            (
                "Partitions",
                "short",
                [
                    ("sum by (role, state) (freshet_worker_partitions)", "{{role}} {{state}}"),
                    ("sum by (version) (freshet_worker_graph_partitions)", "under {{version}}"),
                ],
            ),
        ],
    ),
    (
        "What it holds",
        [
            (
                "Waiting",
                "short",
                [
                    ("sum(freshet_pending_impressions)", "impressions for clicks"),
                    ("sum(freshet_waiting_clicks)", "clicks for impressions"),
                    ("sum(freshet_impressions_in_flight)", "impressions in flight"),
                    ("sum(freshet_feedback_queue_events)", "events in the queue"),
                ],
            ),
            ("Memory", "bytes", [('process_resident_memory_bytes{job=~"freshet-.*"}', "{{instance}}")]),
            (
                "Processors",
                "percentunit",
                [('rate(process_cpu_seconds_total{job=~"freshet-.*"}[1m])', "{{instance}}")],
            ),
        ],
    ),
]


def make_board() -> dict[str, Any]:
    """The board."""
    panels: list[dict[str, Any]] = []
    y = 0
    for place, stat in enumerate(_STATS):
        panels.append(_stat(*stat) | {"gridPos": {"h": 4, "w": 4, "x": 4 * place, "y": y}})
    y += 4
    for title, graphs in _ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": []} | _place(y, 0, 24, 1))
        y += 1
        for place, graph in enumerate(graphs):
            row, column = divmod(place, _PER_ROW)
            panels.append(_graph(*graph) | _place(y + row * _HEIGHT, column * _WIDTH, _WIDTH, _HEIGHT))
        y += _HEIGHT * -(-len(graphs) // _PER_ROW)
    for number, panel in enumerate(panels):
        panel["id"] = number + 1
    return {
        "title": "Freshet",
        "uid": "freshet",
        "tags": ["freshet"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def _place(y: int, x: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"h": height, "w": width, "x": x, "y": y}}


def _target(at: int, expression: str, legend: str) -> dict[str, Any]:
    return {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}


def _stat(title: str, unit: str, expression: str, bad: float) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": bad}]
    return {
        "type": "stat",
        "title": title,
        "datasource": _SOURCE,
        "targets": [_target(0, expression, "")],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "colorMode": "background",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    }


def _graph(title: str, unit: str, series: Series) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "targets": [_target(at, *one) for at, one in enumerate(series)],
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


if __name__ == "__main__":
    BOARD.write_text(json.dumps(make_board(), indent=1) + "\n")

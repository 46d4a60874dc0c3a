"""Open Bandit Dataset (Saito et al. 2020, arXiv 2008.07146): single impressions with propensities.

A row is one impression at one of three positions; slates cannot be rebuilt, so each row is its own request. A
user is the equal mixture of four clusters, one per hashed feature; every item is joined to every cluster.
"""

import csv
from datetime import datetime
from pathlib import Path

import numpy as np

from bandits.context import fixed_point_weights
from bandits.graph import build_graph
from streams.logs.event_log import EventLog, LogError

_FEATURES = tuple(f"user_feature_{i}" for i in range(4))
_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *_FEATURES)


def read_open_bandit(path: Path) -> EventLog:
    """Read one campaign's table, such as `random/all/all.csv`.

    Raises:
        LogError: the file or a column is missing, or a value is not what it should be.
    """
    rows = _rows(path)
    try:
        time_ms = np.array([_milliseconds(row["timestamp"]) for row in rows], np.int64)
        item = np.array([int(row["item_id"]) for row in rows])
        position = np.array([int(row["position"]) - 1 for row in rows], np.int32)
        click = np.array([float(row["click"]) for row in rows])
        propensity = np.array([float(row["propensity_score"]) for row in rows])
    except ValueError as error:
        raise LogError(f"{path}: expected numbers and times, got {error}") from error
    order = np.argsort(time_ms, kind="stable")
    names = sorted({(feature, row[feature]) for row in rows for feature in _FEATURES})
    cluster = {name: number for number, name in enumerate(names)}
    contexts = np.sort([[cluster[feature, row[feature]] for feature in _FEATURES] for row in rows], axis=1)
    n_items, n_clusters = int(item.max()) + 1, len(names)
    graph = build_graph(
        version="open-bandit-1",
        centroids=[],
        n_clusters=n_clusters,
        item_ids=[str(number) for number in range(n_items)],
        edge_item=np.repeat(np.arange(n_items), n_clusters),
        edge_cluster=np.tile(np.arange(n_clusters), n_items),
    )
    weight = np.full(contexts.size, 1 / len(_FEATURES))
    return EventLog(
        name=f"open bandit {path.parent.parent.name}/{path.parent.name}",
        graph=graph,
        request_ids=[f"{path.stem}-{row}" for row in order.tolist()],
        item_ids=[str(number) for number in item[order].tolist()],
        occurred_at_ms=time_ms[order],
        clicked=click[order],
        position=position[order],
        propensity=propensity[order],
        user=order.astype(np.int64),
        context_ends=np.arange(1, len(rows) + 1) * len(_FEATURES),
        context_cluster=contexts.ravel().astype(np.int32),
        context_x=fixed_point_weights(weight),
        note="single impressions of a sub-sample; a few dozen clicks, so estimates are wide",
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise LogError(f"{path}: expected column {missing[0]}, got {reader.fieldnames}")
            rows = [{name: row[name] for name in _COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LogError(f"{path}: expected a CSV table, got {error}") from error
    if not rows:
        raise LogError(f"{path}: expected rows, got none")
    return rows


def _milliseconds(timestamp: str) -> int:
    # Integer arithmetic: a float of seconds would lose the last digits.
    moment = datetime.fromisoformat(timestamp)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000

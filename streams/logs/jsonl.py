"""Impressions and their clicks as JSON, one object a line: the format for logs of any other system.

A line is `freshet.v1.Impression` by its field names, and beside it `clicks` (as `freshet.v1.Click`, without
request_id), `candidates` (ids the slate was chosen from), and in an item `conditional_propensity` (given the items
above). Invariant: a line is read wholly or the file is refused, naming line, field, expected and got; what clicks
are worth is decided by the joiner.
"""

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson

from bandits.graph import Graph, Int32, Int64, build_graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.sums import Float64
from freshet.v1 import events_pb2
from streams import limits
from streams.event_codec import Record, click_columns, impression_columns
from streams.logs.event_log import EventLog, LogError
from streams.logs.joined import JoinedRows
from streams.validation import Violation, check_click, check_id, check_impression

MAX_LINE_BYTES = 16 << 20
MAX_EDGES_MADE = 20_000_000  # of the graph that is made where none is given
MAX_CANDIDATES = 100_000

_KINDS = {"str": "a string", "list": "a list", "dict": "an object"}


@dataclass(frozen=True, eq=False)
class Line:
    """One line: an impression, its clicks, and what only this format tells."""

    impression: events_pb2.Impression
    clicks: list[events_pb2.Click]
    conditional: dict[str, float]
    candidates: list[str] | None


@dataclass(frozen=True, eq=False)
class JsonlLog:
    """A log with what an `EventLog` has no place for; slates are numbered as its contexts.

    Attributes:
        events: the rows; `user` is the slate of each.
        conditional: float64 of shape (n_rows,), propensity given the items above, NaN = not told.
        candidate_ends: int64 of shape (n_slates,), or None where no line names candidates.
        candidates: int32, item numbers; those of slate i are candidate_ends[i-1]:candidate_ends[i].
    """

    events: EventLog
    conditional: Float64
    candidate_ends: Int64 | None
    candidates: Int32


def read_jsonl(path: Path, *, graph: Graph | None = None, rule: JoinRule | None = None) -> JsonlLog:
    """Read a file, `.gz` or plain.

    Args:
        path: the file.
        graph: to see it under; made of all its items and clusters, each joined to each, if not given.
        rule: what clicks are worth.

    Raises:
        LogError: the file, or a line of it, is not what it should be.
    """
    rule = replace(rule or JoinRule(), resolution="immediate")  # a file has no clock that closes windows
    lines = list(_lines(path, rule))
    if not lines:
        raise LogError(f"{path}: expected at least one line, got none")
    lines.sort(key=lambda line: line.impression.occurred_at_ms)
    named = [line.candidates is not None for line in lines]
    if any(named) and not all(named):
        raise LogError(f"{path}: expected candidates on every line or on none, got them on {sum(named)} lines")
    log, order = _join(lines, rule).log(
        name=path.name, graph=graph or _complete_graph(path, lines), note="as the file tells it"
    )
    kept = [lines[number] for number in order.tolist()]
    pairs = zip(log.user.tolist(), log.item_ids, strict=True)
    candidates = [item for line in kept for item in line.candidates or ()]
    return JsonlLog(
        events=log,
        conditional=np.array([kept[slate].conditional.get(item, math.nan) for slate, item in pairs]),
        candidate_ends=np.cumsum([len(line.candidates or ()) for line in kept]) if all(named) else None,
        candidates=_known(log.graph.lookup(candidates), path),
    )


def _join(lines: list[Line], rule: JoinRule) -> JoinedRows:
    """Rows and rewards as the joiner decides them, every event taken when it occurred."""
    shown = [Record(number, line.impression.occurred_at_ms, [line.impression]) for number, line in enumerate(lines)]
    clicks = sorted((click for line in lines for click in line.clicks), key=lambda click: click.occurred_at_ms)
    reactions = [Record(number, click.occurred_at_ms, [click]) for number, click in enumerate(clicks)]
    outcomes, _ = Joiner(rule).join(impression_columns(shown, rule), click_columns(reactions, rule))
    rows = JoinedRows()
    rows.add(
        outcomes,
        impression=lambda offset, index: (lines[offset].impression, 0),
        click=lambda offset, index: clicks[offset],
    )
    # The joiner may drop a slate that repeats another: what is left keeps the order of the lines.
    return rows


def _known(items: Int32, path: Path) -> Int32:
    if (items < 0).any():
        missing = int(np.count_nonzero(items < 0))
        raise LogError(f"{path}: candidates: expected items of the graph, got {missing} that it does not have")
    return items


def _complete_graph(path: Path, lines: list[Line]) -> Graph:
    items = sorted(
        {item.item_id for line in lines for item in line.impression.items}
        | {item for line in lines for item in line.candidates or ()}
    )
    n_clusters = 1 + max(cluster for line in lines for cluster in line.impression.context.cluster_ids)
    if len(items) * n_clusters > MAX_EDGES_MADE:
        raise LogError(
            f"{path}: expected a graph for {len(items)} items and {n_clusters} clusters, got none: joining each to "
            f"each would take more than {MAX_EDGES_MADE} edges"
        )
    return build_graph(
        version="jsonl-1",
        centroids=[],
        n_clusters=n_clusters,
        item_ids=items,
        edge_item=np.repeat(np.arange(len(items)), n_clusters),
        edge_cluster=np.tile(np.arange(n_clusters), len(items)),
    )


def _lines(path: Path, rule: JoinRule) -> Iterator[Line]:
    number = 0
    try:
        with _open(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    raise _Wrong(Violation("line", f"at most {MAX_LINE_BYTES} bytes", "more"))
                if raw.strip():
                    yield _line(orjson.loads(raw), rule)
    except _Wrong as error:
        raise LogError(f"{path}: line {number}: {error}") from None
    except orjson.JSONDecodeError as error:
        raise LogError(f"{path}: line {number}: expected a JSON object, got {error}") from None
    except (OSError, EOFError) as error:
        raise LogError(f"{path}: expected a readable file, got {error}") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


class _Wrong(ValueError):
    """A line with a violation."""


def _line(raw: Any, rule: JoinRule) -> Line:
    _typed("line", raw, dict, "a JSON object")
    context = _get(raw, "", "context", dict, {})
    shown = [_item(item, i) for i, item in enumerate(_get(raw, "", "items", list, []))]
    ids = _get(context, "context.", "cluster_ids", list, [])
    weights = _get(context, "context.", "weights", list, [])
    impression = events_pb2.Impression(
        request_id=_get(raw, "", "request_id", str, ""),
        occurred_at_ms=_whole(raw, "", "occurred_at_ms", 0, limits.MAX_TIME_MS),
        context=events_pb2.ClusterWeights(
            cluster_ids=[_number(f"context.cluster_ids[{i}]", c, limits.MAX_CLUSTER_ID) for i, c in enumerate(ids)],
            weights=[_real(f"context.weights[{i}]", weight) for i, weight in enumerate(weights)],
        ),
        items=[item for item, _ in shown],
        policy=_get(raw, "", "policy", str, ""),
        surface=_get(raw, "", "surface", str, ""),
    )
    if not impression.occurred_at_ms:
        raise _Wrong(Violation("occurred_at_ms", "Unix milliseconds > 0", str(raw.get("occurred_at_ms", "none"))))
    _refuse(check_impression(impression, rule, impression.occurred_at_ms), "")
    conditional = {item.item_id: given for item, given in shown if given is not None}
    clicks = [
        _click(click, i, impression, rule) for i, click in enumerate(_get(raw, "", "clicks", list, None) or [])
    ]
    return Line(impression, clicks, conditional, _candidates(raw, impression))


def _item(raw: Any, place: int) -> tuple[events_pb2.ShownItem, float | None]:
    at = f"items[{place}]"
    _typed(at, raw, dict, "an object")
    item = events_pb2.ShownItem(
        item_id=_get(raw, f"{at}.", "item_id", str, ""),
        position=_whole(raw, f"{at}.", "position", place, limits.MAX_POSITION),
        propensity=_real(f"{at}.propensity", raw.get("propensity", 0.0)),
    )
    if "conditional_propensity" not in raw:
        return item, None
    field, given = f"{at}.conditional_propensity", raw["conditional_propensity"]
    if not 0 < _real(field, given) <= 1:
        raise _Wrong(Violation(field, "0 < p <= 1", str(given)))
    return item, float(given)


def _click(raw: Any, place: int, impression: events_pb2.Impression, rule: JoinRule) -> events_pb2.Click:
    at = f"clicks[{place}]"
    _typed(at, raw, dict, "an object")
    click = events_pb2.Click(
        request_id=impression.request_id,
        item_id=_get(raw, f"{at}.", "item_id", str, ""),
        kind=_get(raw, f"{at}.", "kind", str, ""),
        occurred_at_ms=_whole(raw, f"{at}.", "occurred_at_ms", 0, limits.MAX_TIME_MS) or impression.occurred_at_ms,
    )
    if "reward" in raw:
        click.reward = _real(f"{at}.reward", raw["reward"])
    _refuse(check_click(click, rule, click.occurred_at_ms), f"{at}.")
    if all(click.item_id != item.item_id for item in impression.items):
        raise _Wrong(Violation(f"{at}.item_id", "an item of this line", f'"{click.item_id}"'))
    return click


def _candidates(raw: Any, impression: events_pb2.Impression) -> list[str] | None:
    given: list[str] | None = _get(raw, "", "candidates", list, None)
    if given is None:
        return None
    if len(given) > MAX_CANDIDATES:
        raise _Wrong(Violation("candidates", f"at most {MAX_CANDIDATES} items", str(len(given))))
    for i, item in enumerate(given):
        _typed(f"candidates[{i}]", item, str, "a string")
        _refuse(check_id(f"candidates[{i}]", item), "")
    known = set(given)
    if len(known) < len(given):
        raise _Wrong(Violation("candidates", "distinct items", f"{len(given) - len(known)} repeated"))
    for i, shown in enumerate(impression.items):
        if shown.item_id not in known:
            raise _Wrong(Violation(f"items[{i}].item_id", "one of the candidates", f'"{shown.item_id}"'))
    return given


def _refuse(wrong: Violation | None, prefix: str) -> None:
    if wrong:
        raise _Wrong(Violation(prefix + wrong.field, wrong.expected, wrong.got))


def _get(raw: Any, prefix: str, name: str, kind: type, default: Any) -> Any:
    if raw.get(name) is None:
        return default
    return _typed(prefix + name, raw[name], kind, _KINDS[kind.__name__])


def _typed(field: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise _Wrong(Violation(field, expected, type(value).__name__))
    return value


def _whole(raw: Any, prefix: str, name: str, default: int, largest: int) -> int:
    return _number(prefix + name, raw[name], largest) if name in raw else default


def _number(field: str, value: Any, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise _Wrong(Violation(field, f"a whole number, 0 to {largest}", str(value)[:64]))
    return value


def _real(field: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > 1e300:
        raise _Wrong(Violation(field, "a number", str(value)[:64]))
    return float(value)

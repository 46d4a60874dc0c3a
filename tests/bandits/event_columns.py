"""Single events and facts, readable one by one, to and from the columns that the joiner takes and gives."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bandits.events import Clicks, Impressions
from bandits.join_rule import kind_numbers
from bandits.joiner import Joiner
from bandits.outcomes import Outcomes

Fact = tuple[str, tuple[tuple[int, int], ...], int, int, tuple[int, int, int]]


@dataclass(frozen=True)
class Shown:
    """A slate: `context` is pairs of cluster and x; `occurred_ms` 0 means unknown; `passed` as in `Impressions`."""

    request: str
    items: tuple[str, ...]
    context: tuple[tuple[int, int], ...]
    occurred_ms: int
    ingested_ms: int
    offset: int
    index: int = 0
    passed: bool = False


@dataclass(frozen=True)
class Clicked:
    """A click; `kind` and `identity` matter only where several count."""

    request: str
    item: str
    reward: int
    occurred_ms: int
    ingested_ms: int
    offset: int
    index: int = 0
    kind: str = ""
    identity: int = 0


Event = Shown | Clicked


def columns(events: Iterable[Event]) -> tuple[Impressions, Clicks]:
    """The columns of one micro-batch."""
    every = list(events)
    shown = [event for event in every if isinstance(event, Shown)]
    clicked = [event for event in every if isinstance(event, Clicked)]
    pairs = [pair for slate in shown for pair in slate.context]
    impressions = Impressions(
        request_ids=[slate.request for slate in shown],
        **times(shown),
        item_ends=np.cumsum([len(slate.items) for slate in shown], dtype=np.int64),
        item_ids=[item for slate in shown for item in slate.items],
        context_ends=np.cumsum([len(slate.context) for slate in shown], dtype=np.int64),
        context_cluster=np.array([cluster for cluster, _ in pairs], np.int32),
        context_x=np.array([x for _, x in pairs], np.int64),
        passed=np.array([slate.passed for slate in shown]) if any(slate.passed for slate in shown) else None,
    )
    clicks = Clicks(
        request_ids=[click.request for click in clicked],
        item_ids=[click.item for click in clicked],
        reward=np.array([click.reward for click in clicked], np.int64),
        **times(clicked),
        **kinds(clicked),
    )
    return impressions, clicks


def kinds(events: Sequence[Clicked]) -> dict[str, np.ndarray]:
    if not any(event.kind for event in events):
        return {}
    return {
        "kind": kind_numbers([event.kind for event in events]),
        "identity": np.array([event.identity for event in events], np.int64),
    }


def times(events: Sequence[Event]) -> dict[str, np.ndarray]:
    return {
        "occurred_at_ms": np.array([event.occurred_ms for event in events], np.int64),
        "ingested_at_ms": np.array([event.ingested_ms for event in events], np.int64),
        "offset": np.array([event.offset for event in events], np.int64),
        "index": np.array([event.index for event in events], np.int32),
    }


def facts(outcomes: Outcomes) -> Counter[Fact]:
    """Every fact as (item, context, impressions, reward, cause), with how often it is there."""
    starts = [0, *outcomes.context_ends.tolist()]
    pairs = list(zip(outcomes.context_cluster.tolist(), outcomes.context_x.tolist(), strict=True))
    return Counter(
        (
            outcomes.item_ids[outcomes.item[i]],
            tuple(pairs[starts[outcomes.context[i]] : starts[outcomes.context[i] + 1]]),
            int(outcomes.impressions[i]),
            int(outcomes.reward[i]),
            (int(outcomes.cause_topic[i]), int(outcomes.cause_offset[i]), int(outcomes.cause_index[i])),
        )
        for i in range(len(outcomes))
    )


def feed(joiner: Joiner, batches: Iterable[Iterable[Event]]) -> Counter[Fact]:
    """Join and apply micro-batches; all facts that came out."""
    seen: Counter[Fact] = Counter()
    for batch in batches:
        outcomes, change = joiner.join(*columns(batch))
        joiner.apply(change)
        seen += facts(outcomes)
    return seen

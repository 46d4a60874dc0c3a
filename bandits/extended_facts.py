"""Facts that open or close impressions, were seen at a position, or are forgotten: the reference in NumPy.

Invariants: a, d, b, n and s get exactly what plain facts would give them, except that x = gamma * w and that
amounts are weighed by their age (`bandits.forgetting`); what opens and closes cancels exactly; facts of one
half-life may come in any order. Facts of different half-lives are taken in their order.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bandits.arena import ranges
from bandits.forgetting import blocks, rebased, weighed, weights
from bandits.graph import Graph
from bandits.sums import (
    EXCESS,
    HALF_LIFE,
    LARGEST,
    LATEST,
    OPEN,
    PAST_A,
    PAST_EXCESS,
    UNIT,
    UNIT_BITS,
    Facts,
    Int32,
    Int64,
    Sums,
    locate,
)


def add_extended(graph: Graph, sums: Sums, facts: Facts) -> None:
    """Add facts that are not plain, in place; see `Backend.add`."""
    sums.with_extra()
    half_life = facts.half_life_ms if facts.half_life_ms is not None else np.zeros(len(facts), np.int64)
    bounds = [0, *(np.flatnonzero(np.diff(half_life)) + 1).tolist(), len(facts)]
    for start, end in pairwise(bounds):
        _add_run(graph, sums, facts, np.arange(start, end), int(half_life[start]))


def positioned(x: Int64, gamma: Int64) -> Int64:
    """X = gamma * w, rounded once and never to zero; both unit 2^-15."""
    rounded: Int64 = np.maximum((gamma * x + (UNIT >> 1)) >> UNIT_BITS, 1)
    return rounded


@dataclass(frozen=True, eq=False)
class _Terms:
    """What facts add to the edges that they find: the edge, the fact, w and x of each term."""

    edge: Int64
    fact: Int64
    w: Int64
    x: Int64


def _add_run(graph: Graph, sums: Sums, facts: Facts, at: Int64, half_life_ms: int) -> None:
    """Add facts of one half-life."""
    extra, times = sums.with_extra()
    terms = _terms(graph, facts, at)
    if facts.opening is not None:
        np.add.at(extra[:, OPEN], terms.edge, facts.opening[terms.fact] * terms.x * terms.x)
    for column, amount in ((0, facts.impressions[at]), (1, facts.reward[at])):
        _add(sums, sums.item, column, facts.item[at].astype(np.int64), amount)
    shown, reward = facts.impressions[terms.fact], facts.reward[terms.fact]
    counted = terms.x * shown
    amounts = [counted, terms.x * counted, terms.x * reward, (terms.w - terms.x) * reward]
    newest = np.ones(len(terms.edge), np.bool_)
    if half_life_ms and facts.shown_ms is not None:
        counts = at[(facts.impressions[at] > 0) | (facts.reward[at] > 0)]
        _advance(graph, sums, facts.item[counts], facts.shown_ms[counts], half_life_ms)
        half_life = np.array(half_life_ms)
        shown_ms = facts.shown_ms[terms.fact]
        age = blocks(times[facts.item[terms.fact], LATEST], half_life) - blocks(shown_ms, half_life)
        newest = age == 0
        past = np.flatnonzero(age == 1)
        amounts = [weighed(amount, weights(shown_ms, half_life)) for amount in amounts]
        for offset, amount in enumerate(amounts):
            _add(sums, extra, PAST_A + offset, terms.edge[past], amount[past])
    for column, amount in enumerate(amounts[:3]):
        _add(sums, sums.edge, column, terms.edge[newest], amount[newest])
    _add(sums, extra, EXCESS, terms.edge[newest], amounts[3][newest])


def _terms(graph: Graph, facts: Facts, at: Int64) -> _Terms:
    sizes = np.diff(facts.context_ptr)[facts.context[at]]
    element = ranges(facts.context_ptr[facts.context[at]], sizes)
    fact = np.repeat(at, sizes)
    edge = locate(graph, facts.item[fact], facts.context_cluster[element][:, None])[:, 0]
    found = edge >= 0
    edge, fact, w = edge[found], fact[found], facts.context_x[element][found]
    return _Terms(edge, fact, w, w if facts.gamma is None else positioned(w, facts.gamma[fact]))


def _advance(graph: Graph, sums: Sums, item: Int32, shown_ms: Int64, half_life_ms: int) -> None:
    """Bring the rows of some items to the newest of their facts' blocks; facts that count, in order."""
    extra, times = sums.with_extra()
    if not len(item):
        return
    half_life = np.array(half_life_ms)
    rows, first = np.unique(item, return_index=True)
    before = times[rows].copy()
    other = (before[:, HALF_LIFE] != 0) & (before[:, HALF_LIFE] != half_life_ms)
    for row in rows[other].tolist():  # seldom: the setting has been changed
        _rebase(graph, sums, row, half_life_ms)
    # What a row learned before anything was forgotten counts as if it were of its first fact's block.
    latest = np.where(before[:, HALF_LIFE] == 0, shown_ms[first], before[:, LATEST])
    newest = latest.copy()
    np.maximum.at(newest, np.searchsorted(rows, item), shown_ms)
    steps = blocks(newest, half_life) - blocks(latest, half_life)
    times[rows, HALF_LIFE], times[rows, LATEST] = half_life_ms, newest
    moved = np.flatnonzero(steps > 0)
    sizes = np.diff(graph.item_ptr)[rows[moved]]
    edge = ranges(graph.item_ptr[rows[moved]], sizes)
    kept = np.repeat(steps[moved] == 1, sizes)[:, None]
    extra[edge, PAST_A:PAST_EXCESS] = np.where(kept, sums.edge[edge], 0)
    extra[edge, PAST_EXCESS] = np.where(kept[:, 0], extra[edge, EXCESS], 0)
    sums.edge[edge] = 0
    extra[edge, EXCESS] = 0


def _rebase(graph: Graph, sums: Sums, item: int, half_life_ms: int) -> None:
    """Express the row of an item under another half-life."""
    extra, times = sums.with_extra()
    latest = times[item, LATEST]
    before, after = weights(latest, times[item, HALF_LIFE]), weights(latest, np.array(half_life_ms))
    row = slice(graph.item_ptr[item], graph.item_ptr[item + 1])
    sums.edge[row] = rebased(sums.edge[row], extra[row, PAST_A:PAST_EXCESS], before, after)
    extra[row, EXCESS] = rebased(extra[row, EXCESS], extra[row, PAST_EXCESS], before, after)
    extra[row, PAST_A:] = 0
    times[item, HALF_LIFE] = half_life_ms


def _add(sums: Sums, table: Int64, column: int, row: Int64, amount: Int64) -> None:
    """Add to a column, stopping at the largest value."""
    touched, place = np.unique(row, return_inverse=True)
    delta = np.zeros(len(touched), np.int64)
    np.add.at(delta, place, amount)
    added = table[touched, column] + delta
    wrapped = added < table[touched, column]
    table[touched, column] = np.where(wrapped, LARGEST, added)
    sums.saturated += int(np.count_nonzero(wrapped))

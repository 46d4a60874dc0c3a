"""The learner as a pure fold: repeats, rows of different ages, graph switches."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.backend import choose_backend
from bandits.graph import Graph, build_graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.learner import Learner
from bandits.outcomes import Outcomes
from bandits.sums import state_hash
from tests.bandits.dict_model import dict_sums
from tests.bandits.event_columns import Clicked, Fact, Shown, columns, facts

NOW_MS = 1_700_000_000_000
BACKEND = choose_backend("numpy")


def make_graph(version: str, edges: list[tuple[str, int]], n_clusters: int = 6) -> Graph:
    items = sorted({item for item, _ in edges})
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=n_clusters,
        item_ids=items,
        edge_item=[items.index(item) for item, _ in edges],
        edge_cluster=[cluster for _, cluster in edges],
    )


FULL = make_graph("full", [(f"i{n}", cluster) for n in range(5) for cluster in range(6) if (n + cluster) % 3])


def ledger(seed: int, count: int) -> list[Outcomes]:
    """Records of one joiner over random slates and clicks; i7 is in no graph."""
    rng = random.Random(seed)
    joiner, records = Joiner(JoinRule()), []
    for n in range(count):
        items = tuple(rng.sample(["i0", "i1", "i2", "i3", "i4", "i7"], 3))
        context = tuple((c, rng.randint(1, 1 << 15)) for c in sorted(rng.sample(range(6), 2)))
        clicks = [
            Clicked(f"r{rng.randrange(n + 1)}", rng.choice(items), 1 << 15, 0, NOW_MS, n, k) for k in range(2)
        ]
        outcomes, change = joiner.join(*columns([Shown(f"r{n}", items, context, 0, NOW_MS, n), *clicks]))
        joiner.apply(change)
        records.append(outcomes)
    return records


def fold(learner: Learner, records: list[Outcomes], start: int = 0) -> Learner:
    for offset, record in enumerate(records[start:], start):
        learner.apply(record, offset=offset)
    return learner


def all_facts(records: list[Outcomes]) -> Counter[Fact]:
    return sum((facts(record) for record in records), Counter())


@given(seed=st.integers(0, 2**32), count=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_the_state_is_the_fold_of_the_ledger(seed: int, count: int) -> None:
    """Sums equal those of a dict over all facts; those of an item with a fact change; unknown ones are counted."""
    records = ledger(seed, count)
    learner = Learner.empty(FULL, BACKEND)
    for offset, record in enumerate(records):
        changed = learner.apply(record, offset=offset)
        named = {item for item, *_ in facts(record)} - {"i7"}
        assert [FULL.item_ids[item] for item in changed.tolist()] == sorted(named)
        assert changed.dtype == np.int32
        assert (learner.row_position[changed] == offset + 1).all()
    everything = all_facts(records)
    edges, items = dict_sums(FULL, everything)
    assert sorted(map(tuple, learner.sums.edge.tolist())) == sorted(map(tuple, edges.values()))
    assert learner.sums.item.tolist() == list(items.values())
    unknown = sum(n for (item, *_), n in everything.items() if item == "i7")
    assert learner.facts_unknown == unknown
    assert learner.facts_applied == everything.total() - unknown
    assert learner.position == count


def test_a_batch_is_learned_once_however_often_it_is_delivered() -> None:
    """A repeated or older sequence moves the position and a counter, nothing else."""
    records = ledger(1, 6)
    learner = fold(Learner.empty(FULL, BACKEND), records)
    before = state_hash(FULL, learner.sums)
    for offset, again in enumerate([records[5], records[0], records[3]], 6):
        assert not len(learner.apply(again, offset=offset))
    assert (learner.batches_repeated, learner.position) == (3, 9)
    assert state_hash(FULL, learner.sums) == before


def test_partitions_have_sequences_of_their_own() -> None:
    """Sequence 1 of one joiner does not hide sequence 1 of another."""
    records = ledger(2, 1)
    other = Outcomes(**{**vars(records[0]), "joiner_partition": 3})
    learner = fold(Learner.empty(FULL, BACKEND), [records[0], other])
    assert learner.batches_repeated == 0
    assert learner.applied == {0: 1, 3: 1}
    assert learner.sums.item.sum() == 2 * fold(Learner.empty(FULL, BACKEND), records).sums.item.sum()


@given(seed=st.integers(0, 2**32), ages=st.lists(st.integers(0, 10), min_size=5, max_size=5))
@settings(max_examples=60, deadline=None)
def test_rows_of_different_ages_and_a_replay_give_the_same_sums(seed: int, ages: list[int]) -> None:
    """Each row is taken from another moment, then the ledger is replayed from the oldest: nothing counts twice."""
    records = ledger(seed, 10)
    expected = fold(Learner.empty(FULL, BACKEND), records)
    restored = Learner.empty(FULL, BACKEND)
    for item, age in enumerate(ages):
        then = fold(Learner.empty(FULL, BACKEND), records[:age])
        edges = slice(*FULL.item_ptr[item : item + 2].tolist())
        restored.sums.edge[edges] = then.sums.edge[edges]
        restored.sums.item[item] = then.sums.item[item]
        restored.row_position[item] = age
    fold(restored, records, start=min(ages))
    assert state_hash(FULL, restored.sums) == state_hash(FULL, expected.sums)
    assert np.array_equal(restored.sums.edge, expected.sums.edge)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_switched_graph_keeps_what_both_have_and_starts_the_rest_at_zero(at: int) -> None:
    """Surviving edges have all their facts, new ones those since the switch, dead ones never come back."""
    records = ledger(5, 8)
    narrow = make_graph("narrow", [("i4", 0), ("i1", 1), ("i9", 1), ("i1", 2)])
    learner = fold(Learner.empty(FULL, BACKEND), records[:at])
    learner.switch_graph(narrow)
    assert learner.position == at
    fold(learner, records, start=at)
    old, _ = dict_sums(FULL, all_facts(records[:at]))
    new, items = dict_sums(narrow, all_facts(records[at:]))
    expected = {
        edge: [x + y for x, y in zip(old.get(edge, [0] * 3), sums, strict=True)] for edge, sums in new.items()
    }
    owner = np.repeat(narrow.item_ids, np.diff(narrow.item_ptr)).tolist()
    names = list(zip(owner, narrow.edge_cluster.tolist(), strict=True))
    assert dict(zip(names, learner.sums.edge.tolist(), strict=True)) == expected
    # Back again: i0 was in no graph meanwhile.
    learner.switch_graph(FULL)
    assert not learner.sums.item[FULL.index["i0"]].any()
    assert (
        learner.sums.item[FULL.index["i1"]].tolist()
        == fold(Learner.empty(FULL, BACKEND), records).sums.item[FULL.index["i1"]].tolist()
    )
    assert items["i9"] == [0, 0]


def test_a_graph_without_items_learns_nothing_and_fails_nothing() -> None:
    """A corpus may start empty: every fact is of an unknown item."""
    empty = make_graph("empty", [])
    learner = fold(Learner.empty(empty, BACKEND), ledger(3, 3))
    assert learner.facts_applied == 0
    assert learner.facts_unknown > 0
    learner.switch_graph(FULL)
    assert learner.row_position.tolist() == [3] * 5

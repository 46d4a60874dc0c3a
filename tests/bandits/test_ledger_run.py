"""Folding many ledger records at once against folding them one by one."""

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph import Graph, build_graph
from bandits.learner import Learner
from bandits.ledger_run import Delivery, LedgerRun, fold_run
from bandits.outcomes import Outcomes
from bandits.sums import Sums

N_ITEMS, N_CLUSTERS, LEARNERS = 30, 12, 3


def graph() -> Graph:
    rng = np.random.default_rng(1)
    return build_graph(
        version="run",
        centroids=[],
        n_clusters=N_CLUSTERS,
        item_ids=[f"item-{i}" for i in range(N_ITEMS)],
        edge_item=np.repeat(np.arange(N_ITEMS), 4),
        edge_cluster=np.concatenate([rng.choice(N_CLUSTERS, 4, replace=False) for _ in range(N_ITEMS)]),
    )


def learners(of: Graph, sums: Sums, row_position: np.ndarray) -> list[Learner]:
    backend = choose_backend("numpy")
    return [Learner(of, backend, sums, row_position) for _ in range(LEARNERS)]


def record(rng: np.random.Generator, learner: int, sequence: int) -> Outcomes:
    """Facts of a few items of a partition, some of which the graph does not have."""
    contexts = [
        np.sort(rng.choice(N_CLUSTERS, rng.integers(1, 4), replace=False)) for _ in range(rng.integers(1, 4))
    ]
    items = rng.choice(np.arange(learner, N_ITEMS + 6, LEARNERS), rng.integers(1, 5), replace=False)
    facts = int(rng.integers(0, 9))
    return Outcomes(
        joiner_partition=int(rng.integers(0, 2)),
        sequence=sequence,
        impressions_position=0,
        clicks_position=0,
        item_ids=[f"item-{number}" for number in items],
        context_ends=np.cumsum([len(context) for context in contexts]),
        context_cluster=np.concatenate(contexts).astype(np.int32),
        context_x=rng.integers(1, 1 << 15, sum(map(len, contexts))),
        item=rng.integers(0, len(items), facts).astype(np.int32),
        context=rng.integers(0, len(contexts), facts).astype(np.int32),
        impressions=rng.integers(0, 2, facts),
        reward=rng.integers(0, 1 << 15, facts),
        cause_topic=np.zeros(facts, np.int32),
        cause_offset=np.zeros(facts, np.int64),
        cause_index=np.zeros(facts, np.int32),
    )


def together(records: list[Outcomes]) -> LedgerRun:
    """As the codec does it, by plain appending."""
    items: list[str] = []
    columns: dict[str, list[int]] = {name: [] for name in ("record", "item", "context", "impressions", "reward")}
    ends, cluster, x = [], [], []
    for number, one in enumerate(records):
        columns["record"] += [number] * len(one)
        columns["item"] += (one.item + len(items)).tolist()
        columns["context"] += (one.context + len(ends)).tolist()
        columns["impressions"] += one.impressions.tolist()
        columns["reward"] += one.reward.tolist()
        ends += (one.context_ends + len(cluster)).tolist()
        cluster += one.context_cluster.tolist()
        x += one.context_x.tolist()
        items += one.item_ids
    dtypes = {"record": np.int32, "item": np.int32, "context": np.int32}
    return LedgerRun(
        item_ids=items,
        context_ends=np.array(ends, np.int64),
        context_cluster=np.array(cluster, np.int32),
        context_x=np.array(x, np.int64),
        **{name: np.array(values, dtypes.get(name, np.int64)) for name, values in columns.items()},
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_run_changes_what_its_records_change_one_by_one(seed: int) -> None:
    """Sums, row positions, applied sequences and counts are equal, with repeats, old rows and unknown items."""
    rng = np.random.default_rng(seed)
    of = graph()
    row_position = rng.choice([0, 0, 3, 7], N_ITEMS)  # some rows include more of the ledger than others
    single, whole = (learners(of, Sums.zeros(of), row_position.astype(np.int64).copy()) for _ in range(2))
    places = [int(place) for place in rng.integers(0, LEARNERS, 25)]
    sequences = rng.integers(1, 9, 25).tolist()  # repeats, and some that come too late
    records = [record(rng, place, sequence) for place, sequence in zip(places, sequences, strict=True)]
    offsets = [2 * number for number in range(25)]  # with holes
    changed = [
        single[place].apply(one, offset=offset) for place, one, offset in zip(places, records, offsets, strict=True)
    ]
    start = 0
    changed_whole = []
    for size in rng.multinomial(25, [0.25] * 4).tolist():
        part = slice(start, start + size)
        deliveries = [
            Delivery(whole[place], offset, one.joiner_partition, one.sequence)
            for place, one, offset in zip(places[part], records[part], offsets[part], strict=True)
        ]
        changed_whole.append(fold_run(together(records[part]), deliveries))
        start += size
    assert np.array_equal(single[0].sums.edge, whole[0].sums.edge)
    assert np.array_equal(single[0].sums.item, whole[0].sums.item)
    assert np.array_equal(single[0].row_position, whole[0].row_position)
    assert np.unique(np.concatenate(changed)).tolist() == np.unique(np.concatenate(changed_whole)).tolist()
    for one, other in zip(single, whole, strict=True):
        for name in ("applied", "position", "facts_applied", "facts_unknown", "batches_repeated"):
            assert getattr(one, name) == getattr(other, name), name


def test_an_empty_run_changes_nothing() -> None:
    """Records may all have been fences."""
    assert fold_run(together([]), []).tolist() == []

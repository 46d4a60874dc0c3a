"""`verify` must find every kind of difference; a check that always says yes is worse than none."""

import itertools

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph import build_graph
from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2 as ev
from freshet.v1 import state_pb2
from streams import store as keys
from streams.embedded import EmbeddedLoop, LoopLimits
from streams.outcome_codec import decode_outcomes
from streams.store import Batch, Store
from streams.verify import verify_store

ITEMS, CLUSTERS = 12, 6


def make_graph(version="v1", *, seed=0):
    rng = np.random.default_rng(seed)
    edges = np.argwhere(rng.random((ITEMS, CLUSTERS)) < 0.6)
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=CLUSTERS,
        item_ids=[f"item-{i}" for i in range(ITEMS)],
        edge_item=edges[:, 0],
        edge_cluster=edges[:, 1],
    )


def open_loop(folder, graph=None, *, rule=None):
    ticks = itertools.count(1_000_000)
    loop = EmbeddedLoop(
        folder,
        rule=rule or JoinRule(),
        limits=LoopLimits(max_batch_events=16),
        backend=choose_backend(),
        graph=graph,
        on_change=lambda change: None,
        clock_ms=lambda: next(ticks),
    )
    loop.start()
    return loop


def feed(loop, first, last):
    """Requests of three items each, the first item clicked twice, one click on a request that nobody saw."""
    for number in range(first, last):
        items = [ev.ShownItem(item_id=f"item-{(number + k) % ITEMS}", position=k) for k in range(3)]
        context = ev.ClusterWeights(cluster_ids=[number % CLUSTERS, (number + 2) % CLUSTERS], weights=[0.7, 0.3])
        slate = ev.Impression(request_id=f"r{number}", context=context, items=items)
        loop.offer_impressions(ev.ImpressionBatch(impressions=[slate])).result(10)
        clicked = ev.Click(request_id=f"r{number}", item_id=items[0].item_id)
        unseen = ev.Click(request_id=f"nobody-{number}", item_id="item-1")
        loop.offer_clicks(ev.ClickBatch(clicks=[clicked, clicked, unseen])).result(10)


def verify(folder):
    return verify_store(folder, backend=choose_backend(), progress=lambda done, total: None)


def failed(result):
    return {check.name for check in result.checks if not check.ok}


@pytest.fixture
def folder(tmp_path):
    loop = open_loop(tmp_path, make_graph())
    feed(loop, 0, 20)
    loop.stop(grace_s=10)
    return tmp_path


def test_a_sound_store_passes_and_counts_every_event(folder):
    """Nothing differs, and each shown item and click is in exactly one count."""
    result = verify(folder)
    assert result.ok, result
    assert result.state_hash == result.folded_hash
    assert result.counts["impressions_accepted"] == 60
    assert result.counts["clicks_joined"] == result.counts["clicks_duplicate"] == 20
    assert result.counts["clicks_waiting"] == 20


def test_it_holds_across_restarts_freezing_new_graphs_and_new_rules(tmp_path):
    """What changed in between is part of the record: graphs, rules, learning that was frozen."""
    loop = open_loop(tmp_path, make_graph())
    feed(loop, 0, 10)
    loop.load_graph(make_graph("v2", seed=1))
    loop.freeze(True)
    feed(loop, 10, 20)
    loop.load_graph(make_graph("v3", seed=2))
    loop.stop(grace_s=10)
    assert verify(tmp_path).ok
    loop = open_loop(tmp_path, rule=JoinRule(window_ms=1))
    feed(loop, 20, 25)
    loop.freeze(False)
    expected = loop.state_hash()
    loop.stop(grace_s=10)
    result = verify(tmp_path)
    assert result.ok, result
    assert result.state_hash == expected


def test_a_changed_row_is_found_and_its_item_named(folder):
    """One unit in one sum is enough."""
    store = Store(folder / "store")
    name, row = next(store.scan(keys.ROW))
    batch = Batch()
    batch.put(keys.ROW, name, _with_one_more_impression(row))
    store.write(batch)
    store.close()
    result = verify(folder)
    assert failed(result) == {"state = fold(ledger)"}
    assert name.decode() in str(result.checks[0].detail)


def _with_one_more_impression(row):
    from freshet.v1 import parameters_pb2

    message = parameters_pb2.ItemParameters.FromString(row)
    message.n += 1
    return message.SerializeToString()


def test_a_lost_row_is_found(folder):
    """A row that is missing is not the same as a row of zeros in the fold."""
    store = Store(folder / "store")
    name, _ = next(store.scan(keys.ROW))
    batch = Batch()
    batch.delete(keys.ROW, name)
    store.write(batch)
    store.close()
    assert failed(verify(folder)) == {"state = fold(ledger)"}


def test_a_changed_source_record_is_found(folder):
    """The ledger must be what the joiner makes of the source log."""
    store = Store(folder / "store")
    number, record = next(store.numbered(keys.IMPRESSIONS))
    source = state_pb2.SourceRecord.FromString(record)
    source.impressions.impressions[0].items[0].item_id = "item-11"
    batch = Batch()
    batch.put(keys.IMPRESSIONS, number, source.SerializeToString())
    store.write(batch)
    store.close()
    assert "ledger = join(source log)" in failed(verify(folder))


def test_a_changed_ledger_record_is_found_from_both_sides(folder):
    """Neither the state nor the source log agrees with a forged fact."""
    store = Store(folder / "store")
    number, record = next(store.numbered(keys.LEDGER))
    from freshet.v1 import outcomes_pb2

    forged = outcomes_pb2.OutcomeBatch.FromString(record)
    forged.reward[0] += 1
    assert decode_outcomes(forged.SerializeToString()).reward[0] > 0
    batch = Batch()
    batch.put(keys.LEDGER, number, forged.SerializeToString())
    store.write(batch)
    store.close()
    assert {"state = fold(ledger)", "ledger = join(source log)"} <= failed(verify(folder))


def test_a_lost_count_is_found(folder):
    """Counts are recomputed, not believed."""
    store = Store(folder / "store")
    *_, (number, record) = store.numbered(keys.CHANGE)
    change = state_pb2.JoinerChangeColumns.FromString(record)
    change.tally["clicks_joined"] -= 1
    batch = Batch()
    batch.put(keys.CHANGE, number, change.SerializeToString())
    store.write(batch)
    store.close()
    assert failed(verify(folder)) == {"stored counts = recomputed counts"}

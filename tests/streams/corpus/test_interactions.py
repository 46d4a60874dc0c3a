"""Likes in order of time, and the histories before them."""

import gzip
from types import SimpleNamespace

import numpy as np
import pytest

from streams.corpus.errors import CorpusError
from streams.corpus.interactions import Histories, first_likes, split_by_time
from streams.corpus.readers import read_interactions
from streams.corpus.recall import popularity, ranks, recall


def small_log(n, *, n_users, n_items, seed=0):
    """What histories and recall read of a log."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(n_users, size=n).astype(np.int32), rng.integers(n_items, size=n).astype(np.int32)
    time = np.sort(rng.integers(0, n, n))
    rows = first_likes(user, item, time)
    ids = {"user_ids": [*map(str, range(n_users))], "item_ids": [*map(str, range(n_items))]}
    return Log(user=user[rows], item=item[rows], time_ms=time[rows], name="small", **ids)


class Log(SimpleNamespace):
    def __len__(self):
        return len(self.user)


def test_histories_are_those_of_a_dictionary():
    """What a user liked before an event, latest first, without the event itself."""
    log = small_log(400, n_users=23, n_items=50)
    histories = Histories.of(log)
    liked = {}
    for event, (user, item) in enumerate(zip(log.user.tolist(), log.item.tolist(), strict=True)):
        before = liked.setdefault(user, [])
        got = histories.before(log.user[[event]], np.array([event]), 5)[0]
        assert got.tolist() == (before[::-1] + [-1] * 5)[:5]
        row, seen = histories.seen(log.user[[event]], np.array([event]))
        assert seen.tolist() == before
        assert row.tolist() == [0] * len(before)
        before.append(item)


def test_histories_at_a_time_hold_nothing_later():
    """What users had liked among the first events of the log."""
    log = small_log(400, n_users=23, n_items=50)
    everyone = np.arange(23, dtype=np.int32)
    for end in (0, 1, 170, len(log)):
        got = Histories.of(log).at(everyone, end, 4)
        for user in range(23):
            liked = log.item[:end][log.user[:end] == user].tolist()
            assert got[user].tolist() == (liked[::-1] + [-1] * 4)[:4]


def test_an_item_is_liked_once():
    """Only the first time counts, so no history holds its own target."""
    rows = first_likes(np.array([0, 0, 1, 0]), np.array([5, 5, 5, 6]), np.array([9, 3, 4, 3]))
    assert rows.tolist() == [1, 3, 2]


def test_parts_are_cut_by_time():
    """Nothing of one millisecond is on both sides of a cut, and an empty part is refused."""
    log = small_log(400, n_users=23, n_items=50)
    split = split_by_time(log, validation_share=0.2, test_share=0.2)
    for end in (split.train_end, split.validation_end):
        assert log.time_ms[end - 1] < log.time_ms[end]
    with pytest.raises(CorpusError, match="expected events enough"):
        split_by_time(log, validation_share=0.0, test_share=0.2)


def test_ranks_are_those_of_a_sort():
    """An item's place among those not liked yet, ties by number; recall is the share below 50."""
    log = small_log(600, n_users=9, n_items=120)
    events = np.arange(300, len(log))
    scorer = popularity(log.item[:300], 120)
    places = ranks(log, Histories.of(log), events, scorer)
    scores = scorer(events)[0]
    for event, place in zip(events.tolist(), places.tolist(), strict=True):
        liked = set(log.item[:event][log.user[:event] == log.user[event]].tolist())
        order = [item for item in np.argsort(-scores, kind="stable").tolist() if item not in liked]
        assert order[place] == log.item[event]
    found = recall(log, places, events, learned=300)
    assert found.all == (places < 50).mean()
    new = ~np.isin(log.item[events], log.item[:300])
    assert found.new_items == pytest.approx((places[new] < 50).mean())


def test_own_tables_are_read(tables):
    """Likes only, features by the ends of their names, gzipped or not."""
    log = read_interactions("tables", tables)
    assert (len(log), len(log.user_ids), len(log.item_ids)) == (120 * 27, 120, 60)
    kinds = {column.name: column.kind for column in (*log.user_columns, *log.item_columns)}
    assert kinds == {"taste": "category", "genre_tags": "tags", "length_number": "number"}
    data = (tables / "events.csv").read_bytes()
    (tables / "events.csv").unlink()
    (tables / "events.csv.gz").write_bytes(gzip.compress(data))
    np.testing.assert_array_equal(read_interactions("tables", tables).item, log.item)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("events.csv", "user_id,item_id\n", "events.csv: expected column time_ms"),
        ("events.csv", "user_id,item_id,time_ms\nu1,i1,soon\n", "times: expected whole numbers"),
        ("events.csv", "user_id,item_id,time_ms\nu1,i1\n", "record 1: expected 3 fields, got 2"),
        ("events.csv", "user_id,item_id,time_ms\nnobody,i1,3\n", "got none"),
        ("users.csv", "user_id\nu1\nu1\n", "expected distinct ids, got 1 repeated"),
        ("items.csv", "\xff", "items.csv: expected a table"),
        ("items.csv", None, "items.csv: expected a file, got none"),
    ],
)
def test_wrong_tables_are_refused_by_name(tables, file, text, message):
    """File, record or column is named."""
    (tables / file).unlink()
    if text is not None:
        (tables / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match=message):
        read_interactions("tables", tables)


@pytest.mark.parametrize(
    ("kind", "folder", "users", "items", "likes"),
    [("kuairand", "kuairand", 27_285, 7_583, 99_761), ("movielens", "movielens100k", 943, 1_682, 55_375)],
)
def test_real_logs_are_read_whole(data_dir, kind, folder, users, items, likes):
    """Users and items are those of the description; likes are counted once."""
    log = read_interactions(kind, data_dir / folder)
    assert (len(log.user_ids), len(log.item_ids), len(log)) == (users, items, likes)
    pairs = log.user.astype(np.int64) * items + log.item
    assert len(np.unique(pairs)) == likes
    assert (np.diff(log.time_ms) >= 0).all()

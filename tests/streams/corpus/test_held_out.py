"""The later part of a log as users of a simulation."""

import numpy as np
import pytest

from streams.corpus.errors import CorpusError
from streams.corpus.held_out import load_held_out
from streams.corpus.item_place import ItemPlace
from streams.corpus.readers import read_interactions
from streams.corpus.train import Training, TrainSettings
from streams.corpus.train_step import ModelSettings

SETTINGS = TrainSettings(model=ModelSettings(dim=8, hidden=16, history=5, batch=128), epochs=1)


@pytest.fixture(scope="module")
def training(same_tables):
    return Training(read_interactions("tables", same_tables), SETTINGS)


@pytest.fixture(scope="module")
def made(training, tmp_path_factory):
    """The held-out users of a training, and its folder."""
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    folder = tmp_path_factory.mktemp("trained")
    report, parameters = training.run(folder, told=lambda done, numbers: None)
    training.export(parameters, report, folder)
    return training.held_out(parameters, training.later_users(least_likes=2)), folder


def test_likes_are_those_after_the_cut_and_no_others(training, made):
    """What was learned from is never what the simulation rewards, and nothing that is later is left out."""
    people, _ = made
    log, begin = training.log, training.split.validation_end
    expected: dict[str, set[str]] = {}
    for user, item in zip(log.user[begin:].tolist(), log.item[begin:].tolist(), strict=True):
        expected.setdefault(log.user_ids[user], set()).add(log.item_ids[item])
    found = {
        user_id: {people.item_ids[item] for item in people.like_item[start:end].tolist()}
        for user_id, start, end in zip(people.user_ids, people.like_ptr, people.like_ptr[1:], strict=False)
    }
    assert found == {user_id: liked for user_id, liked in expected.items() if len(liked) >= 2}
    assert 10 < len(found) < len(expected)


def test_new_items_were_liked_by_nobody_before(training, made):
    """Items 0 and 30 appear at the very end; they are placed as the exported tower places them, by content."""
    people, folder = made
    assert sorted(people.item_ids[number] for number in people.new_items.tolist()) == ["i0", "i30"]
    assert not np.isin(people.new_items, training.log.item[: training.split.validation_end]).any()
    table = {name: [cells[row] for row in people.new_items] for name, cells in training.log.item_table.items()}
    np.testing.assert_array_equal(people.new_embeddings, ItemPlace.load(folder).embed(table))


def test_embeddings_do_not_know_the_held_out_likes(training, made):
    """A user whose later likes were others would stand at the same place."""
    people, folder = made
    log = training.log
    later = np.arange(len(log)) >= training.split.validation_end
    shuffled = log.item.copy()
    shuffled[later] = np.random.default_rng(1).permutation(log.item[later])
    changed = Training(type(log)(**{**vars(log), "item": shuffled}), SETTINGS)
    _, parameters = changed.run(folder, told=lambda done, numbers: None, resume=True)
    again = changed.held_out(parameters, changed.later_users(least_likes=2))
    np.testing.assert_array_equal(again.users, people.users)


def test_the_files_are_the_same_for_the_same_training(made, tmp_path):
    """They are read back as they were, and written again they are the same bytes."""
    people, _ = made
    people.save(tmp_path / "a")
    load_held_out(tmp_path / "a").save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_too_many_likes_asked_for_are_refused_before_training(training):
    """Nobody waits for a training that ends without its users."""
    with pytest.raises(CorpusError, match="nobody has more than"):
        training.later_users(least_likes=1_000)

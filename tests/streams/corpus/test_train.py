"""Training of the two towers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from bandits.graph import Float32
from streams.corpus.errors import CorpusError
from streams.corpus.item_place import ItemPlace
from streams.corpus.readers import read_interactions
from streams.corpus.towers import embed_items, first_parameters, item_tower, mean_history
from streams.corpus.train import CHECKPOINT, Training, TrainSettings
from streams.corpus.train_checkpoint import load_arrays, load_checkpoint, save_arrays
from streams.corpus.train_step import ModelSettings

MODEL = ModelSettings(dim=8, hidden=16, history=5, batch=128, learning_rate=0.01, seed=3)


def train(tables, folder, *, epochs, resume=False, model=MODEL):
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    folder.mkdir(exist_ok=True)
    training = Training(read_interactions("tables", tables), TrainSettings(model=model, epochs=epochs))
    told = []
    steps = []
    report, parameters = training.run(
        folder, resume=resume, told=lambda done, numbers: told.append(done), stepped=steps.append
    )
    last = epochs * training.steps
    assert steps == list(range(last - len(steps) + 1, last + 1))  # goes on where it was, and misses none
    training.export(parameters, report, folder)
    return report, told


@pytest.fixture(scope="module")
def trained(same_tables, tmp_path_factory):
    """Report and folder of six epochs."""
    folder = tmp_path_factory.mktemp("trained")
    report, told = train(same_tables, folder, epochs=6)
    assert told == [1, 2, 3, 4, 5, 6]
    return report, folder


def exports(folder) -> tuple[Float32, Float32]:
    return np.load(folder / "user_embeddings.npy"), np.load(folder / "item_embeddings.npy")


def test_towers_learn_what_users_like(trained):
    """Loss falls, users of one taste lie by the items of their genre, new items too, by content alone."""
    report, folder = trained
    assert report.curve[-1]["loss"] < report.curve[0]["loss"]
    users, items = exports(folder)
    assert users.shape == (120, 8)
    assert items.shape == (60, 8)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, rtol=1e-5)
    products = users @ items.T
    for new in (0, 30):  # first liked after the training part
        own = np.arange(120) % 2 == new // 30
        assert products[own, new].mean() > products[~own, new].mean() + 0.3
    assert report.test_new_items > 0
    saved = json.loads((folder / "training.json").read_text())
    assert saved["train_events"] == report.train_events
    assert (folder / "item_ids.txt").read_text().splitlines()[30] == "i30"


def test_training_interrupted_is_training_whole(trained, same_tables, tmp_path):
    """Two epochs and then four more give the bytes of six."""
    train(same_tables, tmp_path, epochs=2)
    _, told = train(same_tables, tmp_path, epochs=6, resume=True)
    assert told == [3, 4, 5, 6]
    for whole, parts in zip(exports(trained[1]), exports(tmp_path), strict=True):
        assert whole.tobytes() == parts.tobytes()


def test_a_checkpoint_of_another_training_is_refused(trained, same_tables, tmp_path):
    """Settings that differ would go on from nonsense."""
    shutil.copy(trained[1] / CHECKPOINT, tmp_path)
    other = dataclasses.replace(MODEL, learning_rate=0.02)
    with pytest.raises(CorpusError, match="these settings and this data"):
        train(same_tables, tmp_path, epochs=7, resume=True, model=other)


def test_damaged_checkpoints_are_refused(trained, tmp_path):
    """A checkpoint cut short, or with any of its bytes turned, is refused or read back unharmed."""
    path, data = tmp_path / CHECKPOINT, (trained[1] / CHECKPOINT).read_bytes()
    rng = np.random.default_rng(0)
    identity = json.loads(load_arrays(trained[1] / CHECKPOINT)["about"].tobytes())["identity"]
    whole = load_checkpoint(trained[1] / CHECKPOINT, identity)
    for length in rng.integers(0, len(data), 30).tolist():
        path.write_bytes(data[:length])
        with pytest.raises(CorpusError):
            load_checkpoint(path, identity)
    for at in rng.integers(0, len(data), 60).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            found = load_checkpoint(path, identity)
        except CorpusError:
            continue
        for name, array in found.parameters.items():
            np.testing.assert_array_equal(array, whole.parameters[name])


def test_pickled_arrays_are_refused(tmp_path):
    """A file with objects in it would run code when read."""
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(CorpusError, match="expected named arrays"):
        load_arrays(tmp_path / "a.npz")


def test_equal_arrays_are_equal_files(tmp_path):
    """No time of day is in a file."""
    for name in ("a.npz", "b.npz"):
        save_arrays({"x": np.arange(3)}, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_unseen_item_is_placed_as_training_would(trained, same_tables):
    """The exported tower, read with NumPy alone, gives content-only items the embeddings that were exported."""
    place = ItemPlace.load(trained[1])
    embedded = place.embed(read_interactions("tables", same_tables).item_table)
    np.testing.assert_allclose(embedded[[0, 30]], exports(trained[1])[1][[0, 30]], rtol=1e-5, atol=1e-6)
    assert place.embed({"genre_tags": ["never seen"], "length_number": [""]}).shape == (1, 8)


def test_a_tower_of_other_features_is_refused(trained, tmp_path):
    """Features and weights must be of one training."""
    shutil.copy(trained[1] / "item_tower.npz", tmp_path)
    body = json.loads((trained[1] / "item_features.json").read_text())
    (tmp_path / "item_features.json").write_text(json.dumps(body[:1]))
    with pytest.raises(CorpusError, match="expected a tower over"):
        ItemPlace.load(tmp_path)


def test_numpy_and_the_framework_compute_the_same_towers():
    """One definition of the towers gives the same embeddings on both."""
    jax = pytest.importorskip("jax")
    parameters = first_parameters(n_items=9, item_features=6, user_features=2, hidden=7, dim=5, seed=0)
    rng = np.random.default_rng(0)
    content = rng.integers(0, 2, (9, 6)).astype(np.float32)
    ours = item_tower(parameters, content, parameters["item_id"])
    theirs = item_tower(
        jax.tree.map(jax.numpy.asarray, parameters), jax.numpy.asarray(content), parameters["item_id"]
    )
    np.testing.assert_allclose(np.asarray(theirs), ours, rtol=1e-5, atol=1e-6)
    none = embed_items(parameters, content, np.zeros(9, bool))
    np.testing.assert_allclose(none, item_tower(parameters, content, np.zeros((9, 7), np.float32)), rtol=1e-6)


def test_the_mean_of_a_history_is_over_its_items():
    """Empty places do not count, and an empty history is zero."""
    vectors = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [9.0, 9.0]], [[9.0, 9.0], [9.0, 9.0]]])
    history = np.array([[4, 7], [3, -1], [-1, -1]])
    np.testing.assert_array_equal(mean_history(vectors, history), [[2, 3], [5, 6], [0, 0]])

"""Features as 0/1 columns."""

import json

import numpy as np
import pytest

from streams.corpus.errors import CorpusError
from streams.corpus.features import Column, FeatureEncoder, fit_features

COLUMNS = [Column("kind"), Column("tags", "tags", "|"), Column("size", "number")]
TABLE = {
    "kind": ["a", "b", "a", "b", ""],
    "tags": ["x|y", "x", "", "y|x", "once"],
    "size": ["1", "2", "3", "", "4"],
}


def test_a_value_is_a_column():
    """Categories, tags and bins become flags; empty cells and values of one row become zeros."""
    encoder = fit_features(COLUMNS, TABLE)
    rows = encoder.encode(TABLE)
    assert rows.shape == (5, encoder.width)
    np.testing.assert_array_equal(rows[:, :2], [[1, 0], [0, 1], [1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(rows[:, 2:4], [[1, 1], [1, 0], [0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(rows[:, 4:].sum(axis=1), [1, 1, 1, 0, 1])
    bins = rows[:, 4:].argmax(axis=1)
    assert bins[0] < bins[1] < bins[2] <= bins[4]


def test_unseen_values_are_zeros():
    """A value that came later has no column, and a number beyond all bins falls into the last."""
    encoder = fit_features(COLUMNS, TABLE)
    rows = encoder.encode({"kind": ["new"], "tags": ["new|x"], "size": ["1e9"]})
    assert rows[0, :4].tolist() == [0, 0, 1, 0]
    assert rows[0, -1] == 1


def test_an_encoder_is_json():
    """Written and read back, it encodes the same; the order of the table does not show."""
    encoder = fit_features(COLUMNS, TABLE)
    again = FeatureEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    backwards = {name: cells[::-1] for name, cells in TABLE.items()}
    assert fit_features(COLUMNS, backwards) == encoder


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": ["a"], "tags": ["x"]}, "expected column size, got kind, tags"),
        ({"kind": ["a"], "tags": ["x"], "size": ["big"]}, "column size: expected numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message):
    """The column is named."""
    with pytest.raises(CorpusError, match=message):
        fit_features(COLUMNS, table)


@pytest.mark.parametrize("body", [None, 3, ["a"], [{"name": "a"}], [{"name": "a", "kind": "code"}]])
def test_json_of_something_else_is_refused(body):
    """Nothing but what `to_json` gives is an encoder."""
    with pytest.raises(CorpusError, match="features: expected"):
        FeatureEncoder.from_json(body)

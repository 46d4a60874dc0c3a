"""Embeddings and ids from files."""

import io
import sys

import numpy as np
import pytest

from streams.corpus.embeddings import read_embeddings, read_ids
from streams.corpus.errors import CorpusError, MissingLibrary

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_array_is_read_as_float32(tmp_path, dtype, order):
    """Width, byte order and memory order of the file do not show."""
    np.save(tmp_path / "a.npy", np.array(ROWS, dtype=dtype, order=order))
    values = read_embeddings(tmp_path / "a.npy").values
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, ROWS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.float32), r"expected shape \(n, dim\), got \(3,\)"),
        (np.zeros((0, 3), np.float32), r"expected shape \(n, dim\), got \(0, 3\)"),
        (np.zeros((2, 2), np.int64), "expected floating-point numbers, got dtype int64"),
        (np.array([[0.0], [np.nan]]), "row 1: expected finite"),
        (np.array([[1e300]]), "row 0: expected finite"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(tmp_path, array, message):
    """Shape, type and the first row that is not finite are named."""
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(CorpusError, match=message):
        read_embeddings(tmp_path / "a.npy")


def test_pickles_are_refused(tmp_path):
    """An array of objects would run code when it is loaded, so it is not."""
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)  # what an attacker sends
    with pytest.raises(CorpusError, match="expected an array of numbers"):
        read_embeddings(tmp_path / "a.npy")


def test_every_truncation_is_refused(tmp_path):
    """A file cut short anywhere is no embeddings."""
    buffer = io.BytesIO()
    np.save(buffer, ROWS)
    for length in range(len(buffer.getvalue())):
        (tmp_path / "a.npy").write_bytes(buffer.getvalue()[:length])
        with pytest.raises(CorpusError):
            read_embeddings(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["missing.npy", "missing.parquet"])
def test_missing_files_are_named(tmp_path, name):
    """The message has the path."""
    with pytest.raises(CorpusError, match=name):
        read_embeddings(tmp_path / name)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    """Parquet is an extra; without it the message names the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingLibrary, match=r"freshet\[parquet\]"):
        read_embeddings(tmp_path / "a.parquet")


def test_parquet_columns_are_found_by_what_they_hold(tmp_path):
    """The one column of lists is the embeddings, whatever its name; the ids come along."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    fixed = arrow.FixedSizeListArray.from_arrays(arrow.array(ROWS.ravel()), 2)
    for column in (arrow.array(ROWS.tolist(), arrow.list_(arrow.float64())), fixed):
        table = arrow.table({"item_id": ["a", "b", "c"], "when": [1, 2, 3], "vector": column})
        parquet.write_table(table, tmp_path / "a.parquet")
        found = read_embeddings(tmp_path / "a.parquet")
        np.testing.assert_array_equal(found.values, ROWS)
        assert found.ids == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [([[1.0], [1.0, 2.0], [3.0]], "expected lists of one length"), ([[1.0], None], "without nulls")],
)
def test_ragged_parquet_is_refused(tmp_path, lists, message):
    """Lists of several lengths are no embeddings."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({"v": arrow.array(lists, arrow.list_(arrow.float32()))}), tmp_path / "a.parquet"
    )
    with pytest.raises(CorpusError, match=message):
        read_embeddings(tmp_path / "a.parquet")


def test_ids_are_lines(tmp_path):
    """One id a line, spaces and all; Windows line ends and a missing last one do no harm."""
    for text in ("a b\nü\n", "a b\r\nü\r\n", "a b\nü"):
        (tmp_path / "ids.txt").write_bytes(text.encode())
        assert read_ids(tmp_path / "ids.txt") == ["a b", "ü"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\n\nb\n", "line 2: expected an id, got an empty line"),
        (b"a\nb\na\n", "line 3: expected distinct ids, got 'a' of line 1"),
        (b"\xff\n", "expected text in UTF-8"),
    ],
)
def test_wrong_ids_are_refused_by_line(tmp_path, data, message):
    """The first wrong line is named."""
    (tmp_path / "ids.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        read_ids(tmp_path / "ids.txt")

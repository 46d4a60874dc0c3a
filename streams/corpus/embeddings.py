"""Embeddings and ids from files: .npy, Parquet, and text with one id a line.

Invariants: what is returned is float32, finite and C-contiguous; nothing in a file is ever run (no pickles); a
wrong file is refused by `CorpusError` with the first wrong row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.graph import Float32
from streams.corpus.errors import CorpusError, optional_library

_ID_COLUMNS = ("item_id", "user_id", "id")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Rows of a file.

    Attributes:
        values: float32 of shape (n, dim), finite.
        ids: external id of each row, None where the file has none.
    """

    values: Float32
    ids: list[str] | None


def read_embeddings(path: Path) -> Embeddings:
    """Read a `.npy` array of shape (n, dim), or a `.parquet` table with one column of lists of numbers.

    A Parquet table may have a column of ids, named item_id, user_id or id.

    Raises:
        CorpusError: no such file, another format, a wrong shape or type, or a value that is not finite.
        MissingLibrary: the file is Parquet and pyarrow is not installed.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: expected a file, got none")
    if path.suffix == ".npy":
        return Embeddings(_finite_rows(path, _read_npy(path)), None)
    if path.suffix in (".parquet", ".pq"):
        values, ids = _read_parquet(path)
        return Embeddings(_finite_rows(path, values), ids)
    raise CorpusError(f"{path}: expected a name ending in .npy or .parquet, got {path.suffix or 'no suffix'}")


def read_ids(path: Path) -> list[str]:
    """External ids, one a line in UTF-8, distinct.

    Raises:
        CorpusError: no such file, not UTF-8, an empty line, or an id twice.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: expected a file, got none") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: expected text in UTF-8, got {error}") from error
    ids = text.removesuffix("\n").replace("\r\n", "\n").split("\n") if text else []
    seen: dict[str, int] = {}
    for line, item_id in enumerate(ids, 1):
        if not item_id:
            raise CorpusError(f"{path}: line {line}: expected an id, got an empty line")
        if item_id in seen:
            raise CorpusError(
                f"{path}: line {line}: expected distinct ids, got {item_id!r} of line {seen[item_id]}"
            )
        seen[item_id] = line
    return ids


def _read_npy(path: Path) -> npt.NDArray[Any]:
    try:
        # Mapped, so that a file of float64 is not in memory twice.
        values: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path}: expected an array of numbers in NPY format, got {error}") from error
    if not isinstance(values, np.ndarray):
        raise CorpusError(f"{path}: expected one array, got an archive")
    return values


def _read_parquet(path: Path) -> tuple[npt.NDArray[Any], list[str] | None]:
    parquet = optional_library("pyarrow.parquet", needed_for=f"{path}: Parquet", extra="parquet")
    types = optional_library("pyarrow.types", needed_for=f"{path}: Parquet", extra="parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: expected a Parquet table, got {error}") from error
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    lists = [field.name for field in table.schema if any(is_kind(field.type) for is_kind in kinds)]
    if len(lists) != 1:
        raise CorpusError(f"{path}: expected one column of lists, got {len(lists)} of {table.column_names}")
    column = table.column(lists[0]).combine_chunks()
    flat, rows = column.flatten(), len(column)
    if column.null_count or flat.null_count or not rows or len(flat) % rows:
        raise CorpusError(f"{path}: column {lists[0]}: expected lists of one length without nulls")
    dim = len(flat) // rows
    lengths = np.asarray(column.value_lengths()) if hasattr(column, "value_lengths") else np.full(rows, dim)
    if (lengths != dim).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise CorpusError(f"{path}: row {row}: expected {lengths[0]} numbers as in row 0, got {lengths[row]}")
    names = [name for name in _ID_COLUMNS if name in table.column_names]
    ids = [str(value) for value in table.column(names[0]).to_pylist()] if names else None
    return np.asarray(flat).reshape(rows, dim), ids


def _finite_rows(path: Path, values: npt.NDArray[Any]) -> Float32:
    if values.ndim != 2 or 0 in values.shape:
        raise CorpusError(f"{path}: expected shape (n, dim), got {values.shape}")
    if values.dtype.kind != "f":
        raise CorpusError(f"{path}: expected floating-point numbers, got dtype {values.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by row
        rows: Float32 = np.array(values, dtype=np.float32, order="C")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise CorpusError(f"{path}: row {np.argmin(finite)}: expected finite values, got NaN or infinity")
    return rows

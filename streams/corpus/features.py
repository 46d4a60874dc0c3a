"""Features of users and items as numbers: categories, tags and binned quantities, each its own 0/1 columns.

Invariants: an encoder knows only what it was fitted on, so nothing leaks from later rows; a value it has not seen
gives zeros, as an empty one does; an encoder is JSON, and read back it encodes the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bandits.graph import Float32
from streams.corpus.errors import CorpusError

Table = Mapping[str, Sequence[str]]
"""Columns of text by name, all of one length."""

Kind = Literal["category", "tags", "number"]
MOST_VALUES = 2_000  # of one column; the rarest are left out
_LEAST_ROWS = 2  # of one value; what is true of one row alone says nothing of another
_BINS = 12


@dataclass(frozen=True)
class Column:
    """How one column is encoded.

    Attributes:
        name: of the column.
        kind: "category" one value a cell, "tags" several with `separator` between, "number" cut into equally full
            bins.
        separator: between tags.
    """

    name: str
    kind: Kind = "category"
    separator: str = ","


@dataclass(frozen=True)
class FeatureEncoder:
    """A fitted encoding.

    Attributes:
        columns: the columns.
        values: parallel to `columns`: the values of a category or tag in the order of their 0/1 columns.
        edges: parallel to `columns`: inner edges of the bins of a number, ascending.
    """

    columns: tuple[Column, ...]
    values: tuple[tuple[str, ...], ...]
    edges: tuple[tuple[float, ...], ...]

    @property
    def width(self) -> int:
        """Number of 0/1 columns."""
        return sum(
            len(edges) + 1 if column.kind == "number" else len(values)
            for column, values, edges in zip(self.columns, self.values, self.edges, strict=True)
        )

    def encode(self, table: Table) -> Float32:
        """Rows of 0 and 1, float32 of shape (n_rows, width).

        Raises:
            CorpusError: a column is missing, or a cell of a number is neither empty nor a number.
        """
        rows = len(next(iter(table.values()), ()))
        blocks = [
            _bins(column, cells_of(table, column.name), edges)
            if column.kind == "number"
            else _flags(column, cells_of(table, column.name), values)
            for column, values, edges in zip(self.columns, self.values, self.edges, strict=True)
        ]
        return np.hstack([np.zeros((rows, 0), np.float32), *blocks])

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [
            {
                "name": column.name,
                "kind": column.kind,
                "separator": column.separator,
                "values": list(values),
                "edges": list(edges),
            }
            for column, values, edges in zip(self.columns, self.values, self.edges, strict=True)
        ]

    @classmethod
    def from_json(cls, body: Any) -> "FeatureEncoder":
        """From what `to_json` gave.

        Raises:
            CorpusError: it is something else.
        """
        try:
            columns = tuple(Column(entry["name"], entry["kind"], entry["separator"]) for entry in body)
            values = tuple(tuple(map(str, entry["values"])) for entry in body)
            edges = tuple(tuple(map(float, entry["edges"])) for entry in body)
        except (TypeError, KeyError, ValueError) as error:
            raise CorpusError(f"features: expected a fitted encoding, got {error!r}") from error
        if any(column.kind not in ("category", "tags", "number") for column in columns):
            raise CorpusError("features: expected kinds category, tags or number")
        return cls(columns, values, edges)


def fit_features(columns: Sequence[Column], table: Table) -> FeatureEncoder:
    """Learn the values and bins of every column.

    Raises:
        CorpusError: a column is missing, or a cell of a number is neither empty nor a number.
    """
    values: list[tuple[str, ...]] = []
    edges: list[tuple[float, ...]] = []
    for column in columns:
        cells = cells_of(table, column.name)
        if column.kind == "number":
            values.append(())
            edges.append(_fit_edges(_numbers(column, cells)))
        else:
            counts = Counter(part for cell in cells for part in _parts(column, cell))
            # By count, then by name: a table in another order gives the same encoder.
            common = [value for value, rows in counts.items() if rows >= _LEAST_ROWS]
            ranked = sorted(common, key=lambda value: (-counts[value], value))
            values.append(tuple(ranked[:MOST_VALUES]))
            edges.append(())
    return FeatureEncoder(tuple(columns), tuple(values), tuple(edges))


def cells_of(table: Table, name: str) -> Sequence[str]:
    """A column of a table.

    Raises:
        CorpusError: there is none.
    """
    if name not in table:
        raise CorpusError(f"features: expected column {name}, got {', '.join(table)}")
    return table[name]


def _parts(column: Column, cell: str) -> list[str]:
    parts = cell.split(column.separator) if column.kind == "tags" else [cell]
    return [part for part in parts if part]


def _flags(column: Column, cells: Sequence[str], values: Sequence[str]) -> Float32:
    place = {value: at for at, value in enumerate(values)}
    flags = np.zeros((len(cells), len(values)), np.float32)
    for row, cell in enumerate(cells):
        for part in _parts(column, cell):
            if part in place:
                flags[row, place[part]] = 1
    return flags


def _bins(column: Column, cells: Sequence[str], edges: Sequence[float]) -> Float32:
    numbers = _numbers(column, cells)
    flags = np.zeros((len(cells), len(edges) + 1), np.float32)
    known = np.flatnonzero(~np.isnan(numbers))
    flags[known, np.searchsorted(np.array(edges), numbers[known], side="right")] = 1
    return flags


def _fit_edges(numbers: "np.typing.NDArray[np.float64]") -> tuple[float, ...]:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return ()
    inner = np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1], method="inverted_cdf")
    return tuple(float(edge) for edge in np.unique(inner))


def _numbers(column: Column, cells: Sequence[str]) -> "np.typing.NDArray[np.float64]":
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError as error:
        raise CorpusError(f"features: column {column.name}: expected numbers, got {error}") from error

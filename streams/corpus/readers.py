"""Logs as interactions: KuaiRand-Pure, MovieLens 100k, and tables of one's own.

Invariant: a reader only reads; what counts as a like and which features are used is stated here, once.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from streams.corpus.errors import CorpusError
from streams.corpus.features import Column, Table
from streams.corpus.interactions import Interactions, first_likes

KINDS = ("kuairand", "movielens", "tables")
_LIKED_RATING = 4  # stars of five

_KUAIRAND_USER = tuple(
    Column(name)
    for name in (
        *("user_active_degree", "is_video_author", "is_live_streamer", "follow_user_num_range"),
        *("fans_user_num_range", "friend_user_num_range", "register_days_range"),
        *(f"onehot_feat{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)),
    )
)
_KUAIRAND_ITEM = (
    *(Column("tag", "tags"), Column("video_type"), Column("upload_type"), Column("music_type")),
    *(Column("video_duration", "number"), Column("upload_dt")),
    *(Column("server_width", "number"), Column("server_height", "number")),
)
_MOVIELENS_USER = (Column("age", "number"), Column("gender"), Column("occupation"))
_MOVIELENS_ITEM = (Column("genres", "tags", "|"), Column("year", "number"), Column("words", "tags", " "))


def read_interactions(kind: str, folder: Path) -> Interactions:
    """Read a folder of one of `KINDS`.

    - kuairand: `impressions.csv.gz`, `user_features_pure.csv.gz`, `video_features_basic_pure.csv.gz`; a like is a
      click. (Gao et al., CIKM 2022.)
    - movielens: `u.data`, `u.user`, `u.item` of MovieLens 100k; a like is a rating of 4 or 5.
    - tables: `events.csv` (user_id, item_id, time_ms, and optionally liked: 0 or 1), `users.csv` (user_id, ...) and
      `items.csv` (item_id, ...), each optionally .gz; every further column is a feature, tags where its name ends
      in "_tags" (separated by |), a number where it ends in "_number", else a category.

    Raises:
        CorpusError: a file or column is missing, a value is wrong, or nothing was liked.
    """
    log = {"kuairand": _kuairand, "movielens": _movielens, "tables": _tables}[kind](folder)
    if not len(log):
        raise CorpusError(f"{folder}: expected events of users and items that the tables have, got none")
    return log


def _kuairand(folder: Path) -> Interactions:
    events = read_table(folder / "impressions.csv.gz", ("user_id", "video_id", "time_ms", "is_click"))
    users = read_table(folder / "user_features_pure.csv.gz", ("user_id",))
    items = read_table(folder / "video_features_basic_pure.csv.gz", ("video_id",))
    liked = np.array([cell == "1" for cell in events["is_click"]], bool)
    return _assemble(
        "kuairand",
        folder,
        (events["user_id"], events["video_id"], events["time_ms"]),
        liked,
        (users["user_id"], users, _KUAIRAND_USER),
        (items["video_id"], items, _KUAIRAND_ITEM),
    )


def _movielens(folder: Path) -> Interactions:
    names = ("user_id", "item_id", "rating", "time_s")
    events = _columns(folder / "u.data", list(_rows(folder / "u.data", "\t")), names)
    profile = ("user_id", "age", "gender", "occupation", "zip")
    users = _columns(folder / "u.user", list(_rows(folder / "u.user", "|")), profile)
    rows = list(_rows(folder / "u.item", "|"))
    if any(len(row) != 24 for row in rows):
        raise CorpusError(f"{folder / 'u.item'}: expected 24 fields in every row")
    items = {
        "genres": ["|".join(str(genre) for genre, flag in enumerate(row[5:]) if flag == "1") for row in rows],
        "year": [row[2][-4:] for row in rows],
        "words": [" ".join(sorted(set(_words(row[1])))) for row in rows],
    }
    liked = np.array([int(rating) >= _LIKED_RATING for rating in events["rating"]], bool)
    time_ms = [f"{second}000" for second in events["time_s"]]
    return _assemble(
        "movielens",
        folder,
        (events["user_id"], events["item_id"], time_ms),
        liked,
        (users["user_id"], users, _MOVIELENS_USER),
        ([row[0] for row in rows], items, _MOVIELENS_ITEM),
    )


def _words(title: str) -> list[str]:
    text = "".join(letter if letter.isalpha() else " " for letter in title.lower())
    return [word for word in text.split() if len(word) > 3]


def _tables(folder: Path) -> Interactions:
    def find(name: str) -> Path:
        zipped = folder / f"{name}.gz"
        return zipped if zipped.is_file() else folder / name

    events = read_table(find("events.csv"), ("user_id", "item_id", "time_ms"))
    users, items = read_table(find("users.csv"), ("user_id",)), read_table(find("items.csv"), ("item_id",))
    liked = [cell not in ("", "0") for cell in events.get("liked", ["1"] * len(events["user_id"]))]
    return _assemble(
        "tables",
        folder,
        (events["user_id"], events["item_id"], events["time_ms"]),
        np.array(liked, bool),
        (users["user_id"], users, _guess_columns(users, "user_id")),
        (items["item_id"], items, _guess_columns(items, "item_id")),
    )


def _guess_columns(table: Table, id_name: str) -> tuple[Column, ...]:
    columns: list[Column] = []
    for name in table:
        if name.endswith("_tags"):
            columns.append(Column(name, "tags", "|"))
        elif name.endswith("_number"):
            columns.append(Column(name, "number"))
        elif name != id_name:
            columns.append(Column(name))
    return tuple(columns)


Side = tuple[Sequence[str], Table, tuple[Column, ...]]


def _assemble(
    name: str,
    folder: Path,
    events: tuple[Sequence[str], Sequence[str], Sequence[str]],
    liked: "np.typing.NDArray[np.bool_]",
    users: Side,
    items: Side,
) -> Interactions:
    """Interactions of the liked events whose user and item the tables have."""
    user, item = (
        np.array([place.get(cell, -1) for cell in cells], np.int32)
        for cells, place in zip(events[:2], (_places(folder, users[0]), _places(folder, items[0])), strict=True)
    )
    try:
        time_ms = np.array(events[2], np.int64)
    except ValueError as error:
        raise CorpusError(f"{folder}: times: expected whole numbers, got {error}") from error
    kept = np.flatnonzero(liked & (user >= 0) & (item >= 0))
    rows = kept[first_likes(user[kept], item[kept], time_ms[kept])]
    return Interactions(
        name=name,
        user=user[rows],
        item=item[rows],
        time_ms=time_ms[rows],
        user_ids=list(users[0]),
        item_ids=list(items[0]),
        user_table=users[1],
        item_table=items[1],
        user_columns=users[2],
        item_columns=items[2],
    )


def _places(folder: Path, ids: Sequence[str]) -> dict[str, int]:
    places = {external: row for row, external in enumerate(ids)}
    if len(places) != len(ids):
        raise CorpusError(f"{folder}: expected distinct ids, got {len(ids) - len(places)} repeated")
    return places


def read_table(path: Path, needed: tuple[str, ...]) -> dict[str, list[str]]:
    """Columns of a CSV file with a header, gzipped if its name ends in .gz.

    Raises:
        CorpusError: no such file, no table, or a needed column is missing.
    """
    rows = list(_rows(path, ","))
    header = rows[0] if rows else []
    missing = [name for name in needed if name not in header]
    if missing:
        raise CorpusError(f"{path}: expected column {missing[0]}, got {', '.join(header) or 'nothing'}")
    return _columns(path, rows[1:], tuple(header))


def _columns(path: Path, rows: list[list[str]], names: tuple[str, ...]) -> dict[str, list[str]]:
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise CorpusError(f"{path}: record {number}: expected {len(names)} fields, got {len(row)}")
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def _rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    encoding = "utf-8" if delimiter == "," else "latin-1"  # MovieLens is older than UTF-8's reign
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding=encoding, newline="") as file:
            if delimiter == ",":
                yield from csv.reader(file)
            else:
                yield from csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: expected a file, got none") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: expected a table, got {error}") from error

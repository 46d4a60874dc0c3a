"""The later part of a log as users for `freshet simulate`: where they are, and what they turned out to like.

Invariants: nothing in it was learned from; an embedding knows only what its user liked before the part began; the
files are plain .npy, text and JSON, so that a world of one's own can be written by any program.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandits.graph import Float32, Int32, Int64
from streams.corpus.embeddings import read_embeddings, read_ids
from streams.corpus.errors import CorpusError

_USERS, _LIKES, _ITEM_IDS = "users.npy", "likes.jsonl", "item_ids.txt"
_NEW_ITEMS, NEW_ITEM_IDS = "new_items.npy", "new_item_ids.txt"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Users of a later part of a log.

    Attributes:
        user_ids: external ids of the users.
        users: their embeddings, float32 of shape (n, dim).
        item_ids: external ids of all items, old and new.
        like_ptr: int64 of shape (n + 1,), where each user's likes begin in `like_item`.
        like_item: int32, rows of `item_ids`, ascending and distinct within a user.
        new_items: int32 of shape (n_new,), rows of `item_ids` of items that nobody had liked before, by first like.
        new_embeddings: float32 of shape (n_new, dim), their places by content alone.
    """

    user_ids: Sequence[str]
    users: Float32
    item_ids: Sequence[str]
    like_ptr: Int64
    like_item: Int32
    new_items: Int32
    new_embeddings: Float32

    def save(self, folder: Path) -> None:
        """Write the files that `load_held_out` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _USERS, self.users, allow_pickle=False)
        np.save(folder / _NEW_ITEMS, self.new_embeddings, allow_pickle=False)
        new = [self.item_ids[number] for number in self.new_items.tolist()]
        for name, ids in ((_ITEM_IDS, self.item_ids), (NEW_ITEM_IDS, new)):
            (folder / name).write_text("".join(f"{external}\n" for external in ids), "utf-8")
        with (folder / _LIKES).open("w", encoding="utf-8") as file:
            for row, user_id in enumerate(self.user_ids):
                liked = self.like_item[self.like_ptr[row] : self.like_ptr[row + 1]].tolist()
                entry = {"user_id": user_id, "liked": [self.item_ids[number] for number in liked]}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def load_held_out(folder: Path) -> HeldOut:
    """Read a folder of held-out users.

    - `users.npy`: their embeddings, (n, dim).
    - `likes.jsonl`: a line for each, `{"user_id": "u1", "liked": ["i1", "i2"]}`.
    - `item_ids.txt`: all items, one a line.
    - `new_item_ids.txt` and `new_items.npy` of shape (n_new, dim): items to be published, in this order; both may
      be left out.

    Raises:
        CorpusError: a file is missing or wrong; the message names it and the line.
    """
    users = read_embeddings(folder / _USERS).values
    item_ids = read_ids(folder / _ITEM_IDS)
    number = {external: row for row, external in enumerate(item_ids)}
    user_ids, likes = _read_likes(folder / _LIKES, number)
    if len(user_ids) != len(users):
        raise CorpusError(f"{folder / _LIKES}: expected {len(users)} lines, one a user, got {len(user_ids)}")
    new, embeddings = _read_new(folder, number, dim=users.shape[1])
    return HeldOut(
        user_ids=user_ids,
        users=users,
        item_ids=item_ids,
        like_ptr=np.cumsum([0, *map(len, likes)]),
        like_item=np.concatenate([np.zeros(0, np.int32), *likes]),
        new_items=new,
        new_embeddings=embeddings,
    )


def _read_likes(path: Path, number: dict[str, int]) -> tuple[list[str], list[Int32]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: expected lines of JSON in UTF-8, got {error}") from error
    user_ids, likes = [], []
    for at, line in enumerate(lines, 1):
        try:
            entry: Any = json.loads(line)
            user_ids.append(str(entry["user_id"]))
            liked = [number[str(external)] for external in entry["liked"]]
        except (ValueError, TypeError) as error:
            raise CorpusError(f'{path}: line {at}: expected {{"user_id": ..., "liked": [...]}}: {error}') from error
        except KeyError as error:
            raise CorpusError(
                f"{path}: line {at}: expected a field or an item that exists, got no {error}"
            ) from error
        likes.append(np.unique(np.array(liked, np.int32)))
    return user_ids, likes


def _read_new(folder: Path, number: dict[str, int], *, dim: int) -> tuple[Int32, Float32]:
    path = folder / NEW_ITEM_IDS
    ids = read_ids(path) if path.exists() else []
    if not ids:
        return np.zeros(0, np.int32), np.zeros((0, dim), np.float32)
    unknown = next((external for external in ids if external not in number), None)
    if unknown is not None:
        raise CorpusError(f"{path}: expected ids of {_ITEM_IDS}, got {unknown!r}")
    embeddings = read_embeddings(folder / _NEW_ITEMS).values
    if embeddings.shape != (len(ids), dim):
        raise CorpusError(f"{folder / _NEW_ITEMS}: expected shape {(len(ids), dim)}, got {embeddings.shape}")
    return np.array([number[external] for external in ids], np.int32), embeddings

"""The index of alive rows against a dict: what was entered is found, what has gone is not, however it collided."""

import random

import numpy as np
import pytest

from bandits.row_index import RowIndex
from bandits.texts import Pairs, Texts

FOREVER_MS = 1 << 40


def find(index: RowIndex, keys: list[tuple[str, str]], end: int) -> list[int]:
    """Number of the alive row of each key, -1 where there is none."""
    alive = np.zeros(len(index.rows), np.int64)
    none = index.seek(Pairs.of([]), np.empty(0, np.bool_), np.empty(0, np.int64), alive, FOREVER_MS)
    found = index.find(
        Pairs.of(keys),
        np.zeros(len(keys), np.int64),
        alive,
        none,
        end=end,
        retention_ms=FOREVER_MS,
        wait_ms=FOREVER_MS,
    )
    return [int(number) for number in found]


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_found_until_they_go(seed: int) -> None:
    """Random rows come and go from the front, keys come again; the newest row of each key is found at any time."""
    rng = random.Random(seed)
    index, first, end = RowIndex(), 0, 0
    numbers: dict[tuple[str, str], int] = {}
    universe = [(f"r{rng.randrange(300)}" * rng.choice((1, 5)), f"item-{rng.randrange(9)}") for _ in range(900)]
    for _ in range(60):
        keys = rng.sample(universe, rng.choice((0, 1, 7, 200)))
        index.add(Pairs.of(keys), end)
        numbers |= {key: end + place for place, key in enumerate(keys)}
        end += len(keys)
        first = rng.choice((first, min(first + rng.randrange(300), end), end if rng.random() < 0.1 else first))
        index.drop_before(first)
        numbers = {key: number for key, number in numbers.items() if number >= first}
        assert len(index.rows) == end - first
        asked = rng.sample(universe, 50)
        assert find(index, asked, end) == [numbers.get(key, -1) for key in asked]
        alive = [key for key, _ in sorted(numbers.items(), key=lambda pair: pair[1])]
        assert list(index.items(np.array(sorted(numbers.values()), np.int64))) == [item for _, item in alive]


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_long_and_of_many_slates_are_found(seed: int) -> None:
    """Slates of up to 100 items under few requests, in part gone already; afterwards the table is empty."""
    rng = random.Random(seed)
    index, first, end = RowIndex(), 0, 0
    numbers: dict[tuple[str, str], int] = {}
    for _ in range(40):
        slates = [
            (f"request-{rng.randrange(3)}", rng.sample(range(120), rng.choice((1, 3, 64, 65, 100))))
            for _ in range(rng.randrange(5))
        ]
        requests = Texts.of([request for request, _ in slates])
        keys = [(request, f"i{item}") for request, items in slates for item in items]
        slate = np.repeat(np.arange(len(slates)), [len(items) for _, items in slates])
        index.add(Pairs(requests.take(slate), Texts.of([item for _, item in keys])), end)
        numbers |= {key: end + place for place, key in enumerate(keys)}
        end += len(keys)
        first = min(first + rng.randrange(250), end)
        index.drop_before(first)
        numbers = {key: number for key, number in numbers.items() if number >= first}
        asked = [(f"request-{rng.randrange(3)}", f"i{rng.randrange(120)}") for _ in range(200)]
        assert find(index, asked, end) == [numbers.get(key, -1) for key in asked]
    index.drop_before(end)
    assert not index._table[:, 1].any()
    assert not index._counts[:3].any()


def test_memory_goes_with_the_rows() -> None:
    """After a flood the table is as small as what is left."""
    index = RowIndex()
    index.add(Pairs.of([(f"r{number}", "item") for number in range(20_000)]), 0)
    large = len(index._table)
    index.drop_before(19_990)
    assert (large >= 40_000, len(index._table) <= 256) == (True, True)
    assert find(index, [("r19990", "item"), ("r1", "item")], 20_000) == [19_990, -1]


def test_requests_that_only_look_alike_are_told_apart() -> None:
    """The pair counts, not its joined bytes."""
    index = RowIndex()
    index.add(Pairs.of([("ab", "c"), ("a", "bc")]), 0)
    assert find(index, [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")], 2) == [0, 1, -1, -1]


def test_texts_of_any_length_keep_their_number() -> None:
    """Equal up to the last byte, around the eight bytes that are compared at once, empty, and beyond ASCII."""
    strings = ["", *("x" * size + last for size in range(20) for last in "ab"), "ä" * 7, "中" * 3]
    order = random.Random(1).choices(range(len(strings)), k=500)
    texts = Texts.of([strings[number] for number in order])
    distinct, number = texts.distinct()
    seen = list(dict.fromkeys(strings[at] for at in order))
    assert list(distinct) == seen
    assert [seen[at] for at in number.tolist()] == list(texts)

"""The arena against a list: numbers, values and the bound on memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.arena import Arena, ranges

operations = st.lists(
    st.one_of(st.tuples(st.just("append"), st.integers(0, 200)), st.tuples(st.just("drop"), st.integers(-5, 250))),
    max_size=60,
)


@given(plan=operations, start=st.integers(0, 1_000))
@settings(max_examples=200, deadline=None)
def test_elements_keep_number_and_value_for_life(plan: list[tuple[str, int]], start: int) -> None:
    """After any appends and drops the alive elements are those of a list, under the numbers they were given."""
    arena, model, first, written = Arena(value=np.int64, twin=np.int32), [], start, 0
    arena.start_at(start)
    for name, size in plan:
        if name == "append":
            values = np.arange(written, written + size)
            written += size
            arena.append(value=values, twin=values % 7)
            model += values.tolist()
        else:
            arena.drop_before(first + size)
            gone = min(max(size, 0), len(model))
            del model[:gone]
            first += gone
        assert (arena.first, arena.end, len(arena)) == (first, first + len(model), len(model))
        assert arena.view("value").tolist() == model
        numbers = np.arange(arena.first, arena.end)[::-3]
        assert arena.take("twin", numbers).tolist() == [model[n - first] % 7 for n in numbers]


def test_memory_follows_what_is_alive_down() -> None:
    """After a flood has gone, the next appends give its memory back."""
    arena = Arena(value=np.int64)
    arena.append(value=np.zeros(1_000_000, np.int64))
    arena.drop_before(999_990)
    arena.append(value=np.zeros(1, np.int64))
    assert len(arena._columns["value"]) <= 128


def test_a_steady_flow_needs_memory_for_what_is_alive_only() -> None:
    """100 alive of 100,000 that passed: the column never grows beyond a small factor."""
    arena = Arena(value=np.int64)
    for number in range(1_000):
        arena.append(value=np.full(100, number))
        arena.drop_before(arena.end - 100)
        assert len(arena._columns["value"]) <= 800


def test_marks_are_written_through_the_view() -> None:
    """A view is the memory itself, so that elements can be marked in place."""
    arena = Arena(flag=np.bool_)
    arena.append(flag=np.zeros(3, np.bool_))
    arena.view("flag")[1] = True
    assert arena.take("flag", np.array([0, 1, 2])).tolist() == [False, True, False]


def test_only_an_empty_arena_may_move_its_numbers() -> None:
    """Renumbering what is alive would break every reference to it."""
    arena = Arena(value=np.int64)
    arena.append(value=np.array([1]))
    with pytest.raises(ValueError, match="expected to be empty, got 1 elements"):
        arena.start_at(5)


@given(pairs=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20))
def test_ranges_are_concatenated_aranges(pairs: list[tuple[int, int]]) -> None:
    """Also where some, or all, are empty."""
    starts, sizes = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [number for start, size in pairs for number in range(start, start + size)]
    assert ranges(starts, sizes).tolist() == expected

"""Columns and words as pointers: what compiled functions hand to each other.

A pointer costs nothing to hand on, while an array has its references counted each time: with arrays the scans take
twice as long. Nothing here keeps an array alive: the scan that makes the pointers holds the arrays.
"""

from typing import Any, NamedTuple

from bandits.numba_inner import inner
from bandits.numba_memory import pointer


class ShownPlaces(NamedTuple):
    """A `ShownSink`; `slate` has its rows of eight, and `known` its rows of four, one after the other."""

    ended: Any
    slate: Any
    item: Any
    position: Any
    cluster: Any
    x: Any
    known: Any


class ClickedPlaces(NamedTuple):
    """A `ClickedSink`; `click` has its rows of ten one after the other."""

    ended: Any
    click: Any
    reward: Any


class Work(NamedTuple):
    """What a scan remembers between rows.

    Attributes:
        table: int32, slots of the dictionary of item ids, see `streams.wire.fields.number_of`.
        last_slot: of the table.
        weights: float64, room for those of one context.
        serial: int64, one element: number of the slate among all that were tried.
    """

    table: Any
    last_slot: Any
    weights: Any
    serial: Any


class WordPlaces(NamedTuple):
    """A `Words`, and how many they are."""

    text: Any
    ends: Any
    numbers: Any
    n: Any


class VocabularyPlaces(NamedTuple):
    """A `Vocabulary`."""

    batch: Any
    event: Any
    context: Any
    item: Any
    mode: Any
    kind: Any


@inner
def shown_places(out):  # type: ignore[no-untyped-def]
    """Pointers of a `ShownSink`."""
    return ShownPlaces(
        pointer(out.ended),
        pointer(out.slate),
        pointer(out.item),
        pointer(out.position),
        pointer(out.cluster),
        pointer(out.x),
        pointer(out.known),
    )


@inner
def clicked_places(out):  # type: ignore[no-untyped-def]
    """Pointers of a `ClickedSink`."""
    return ClickedPlaces(pointer(out.ended), pointer(out.click), pointer(out.reward))


@inner
def _word_places(words):  # type: ignore[no-untyped-def]
    return WordPlaces(pointer(words.text), pointer(words.ends), pointer(words.numbers), len(words.ends))


@inner
def vocabulary_places(words):  # type: ignore[no-untyped-def]
    """Pointers of a `Vocabulary`."""
    return VocabularyPlaces(
        _word_places(words.batch),
        _word_places(words.event),
        _word_places(words.context),
        _word_places(words.item),
        _word_places(words.mode),
        _word_places(words.kind),
    )

"""Numbers of texts by their bytes: a hash table over them, for columns of ids that are no Python objects."""

import numpy as np

from bandits.texts import NO_TEXTS, Int32, Int64, Texts, process_seed, smallest_table


class TextIndex:
    """Finds texts.

    Args:
        texts: distinct ones; the place of each is its number.

    Examples:
        >>> TextIndex(Texts.of(["a", "b"])).find(Texts.of(["b", "c", "a"])).tolist()
        [1, -1, 0]
    """

    def __init__(self, texts: Texts) -> None:
        from bandits import numba_texts

        self._compiled = numba_texts
        self._texts = texts
        self._seed = process_seed()
        self._table = smallest_table(len(texts))
        number, first = np.empty(len(texts), np.int32), np.empty(len(texts), np.int64)
        if len(texts):
            none = NO_TEXTS
            places = (texts.data, texts.at, texts.size, none.data, none.at, none.size)
            numba_texts.number_texts(*places, self._seed, self._table, number, first)

    def find(self, texts: Texts) -> Int32:
        """Number of each text, int32; -1 where it is not there."""
        found = np.full(len(texts), -1, np.int32)
        known: tuple[object, Int64, Int64] = (self._texts.data, self._texts.at, self._texts.size)
        if len(texts) and len(self._texts):
            self._compiled.find_texts(texts.data, texts.at, texts.size, self._seed, *known, self._table, found)
        return found

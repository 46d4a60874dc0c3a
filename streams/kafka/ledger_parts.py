"""Compiled split of a ledger record: the facts of one joiner micro-batch as one body for each ledger partition.

Promises: a fact is in the body of its item's partition, in the order of the batch; of items and contexts a body
holds those that its facts name. Nothing is checked here: numbers lie within their columns.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits import numba_memory
from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer
from bandits.outcomes import Outcomes
from bandits.texts import Texts
from freshet.v1 import outcomes_pb2
from streams.wire import writers
from streams.wire.writers import head_size, put_head, put_piece, store_int32, store_int64

Int64 = npt.NDArray[np.int64]

_FIELD = {field.name: field.number for field in outcomes_pb2.OutcomeColumns.DESCRIPTOR.fields}
_ITEM_IDS, _ENDS, _CLUSTERS, _X = (
    _FIELD[name] for name in ("item_ids", "context_ends", "context_clusters", "context_x")
)
_ITEM, _CONTEXT, _IMPRESSIONS, _REWARD = (_FIELD[name] for name in ("item", "context", "impressions", "reward"))
_TOPIC, _OFFSET, _INDEX = (_FIELD[name] for name in ("cause_topic", "cause_offset", "cause_index"))


class FactColumns(NamedTuple):
    """Columns of `Outcomes` as compiled loops take them."""

    item_data: Any
    item_at: Any
    item_size: Any
    context_ends: Any
    context_cluster: Any
    context_x: Any
    item: Any
    context: Any
    impressions: Any
    reward: Any
    cause_topic: Any
    cause_offset: Any
    cause_index: Any


class Split(NamedTuple):
    """Where the facts of each partition are.

    Attributes:
        facts: int64, numbers of the facts, partition after partition.
        fact_ends: int64 of shape (n_partitions + 1,), where each partition's begin, and the end.
        body_ends: int64 likewise, in the bytes.
    """

    facts: Int64
    fact_ends: Int64
    body_ends: Int64


def bodies(outcomes: Outcomes, of_item: Int64, n_partitions: int) -> tuple[memoryview, Split]:
    """Items, contexts and facts of all partitions, one after the other, as fields of an OutcomeBatch.

    Args:
        outcomes: of one micro-batch; the columns that most ledgers do without are left out.
        of_item: int64, ledger partition of each of the item ids.
        n_partitions: of the ledger.
    """
    names = Texts.of(outcomes.item_ids)
    columns = FactColumns(
        names.data,
        names.at,
        names.size,
        *(_int64(outcomes.context_ends), _int32(outcomes.context_cluster), _int64(outcomes.context_x)),
        *(_int32(outcomes.item), _int32(outcomes.context), _int64(outcomes.impressions), _int64(outcomes.reward)),
        *(_int32(outcomes.cause_topic), _int64(outcomes.cause_offset), _int32(outcomes.cause_index)),
    )
    fact_ends, body_ends = np.zeros(n_partitions + 1, np.int64), np.zeros(n_partitions + 1, np.int64)
    split = Split(np.empty(len(outcomes), np.int64), fact_ends, body_ends)
    number = np.empty(len(names), np.int32)
    local, seen = np.empty(len(outcomes.context_ends), np.int32), np.full(len(outcomes.context_ends), -1, np.int32)
    measure_parts(columns, of_item, split, number, seen)
    out = np.empty(int(body_ends[-1]), np.uint8)
    seen.fill(-1)
    write_parts(columns, of_item, split, number, seen, local, out)
    return out.data, split


@inner
def _context_size(ends, context):  # type: ignore[no-untyped-def]
    """Elements of a context; `ends` is a pointer, as an array would have its references counted for each call."""
    return load(ends, context) - (load(ends, context - 1) if context > 0 else 0)


@inner
def _column_sizes(contexts, elements, facts):  # type: ignore[no-untyped-def]
    """Bytes of all columns of a part, without items."""
    size = head_size(_ENDS, 4 * contexts) + head_size(_CLUSTERS, 4 * elements) + head_size(_X, 4 * elements)
    size += 4 * contexts + 8 * elements
    for field in (_ITEM, _CONTEXT, _IMPRESSIONS, _REWARD, _TOPIC, _INDEX):
        size += head_size(field, 4 * facts) + 4 * facts
    return size + head_size(_OFFSET, 8 * facts) + 8 * facts


@inner
def _put_contexts(columns, split, part, seen, local, out, at, contexts, elements):  # type: ignore[no-untyped-def]
    """Write the contexts of a part, numbered as they come; where the next byte goes."""
    ends = put_head(out, at, _ENDS, 4 * contexts)
    clusters = put_head(out, ends + 4 * contexts, _CLUSTERS, 4 * elements)
    xs = put_head(out, clusters + 4 * elements, _X, 4 * elements)
    count, end, context_ends = 0, 0, pointer(columns.context_ends)
    for place in range(split.fact_ends[part], split.fact_ends[part + 1]):
        context = columns.context[split.facts[place]]
        if seen[context] == part:
            continue
        seen[context], local[context] = part, count
        size = _context_size(context_ends, context)
        first = load(context_ends, context) - size
        for element in range(size):
            store_int32(out, clusters + 4 * (end + element), columns.context_cluster[first + element])
            store_int32(out, xs + 4 * (end + element), np.int32(columns.context_x[first + element]))
        end += size
        store_int32(out, ends + 4 * count, np.int32(end))
        count += 1
    return xs + 4 * elements


@inner
def _put_facts(columns, split, part, number, local, out, at):  # type: ignore[no-untyped-def]
    """Write the columns of a part's facts; where the next byte goes."""
    first, count = split.fact_ends[part], split.fact_ends[part + 1] - split.fact_ends[part]
    item = put_head(out, at, _ITEM, 4 * count)
    context = put_head(out, item + 4 * count, _CONTEXT, 4 * count)
    impressions = put_head(out, context + 4 * count, _IMPRESSIONS, 4 * count)
    reward = put_head(out, impressions + 4 * count, _REWARD, 4 * count)
    topic = put_head(out, reward + 4 * count, _TOPIC, 4 * count)
    offset = put_head(out, topic + 4 * count, _OFFSET, 8 * count)
    index = put_head(out, offset + 8 * count, _INDEX, 4 * count)
    for place in range(count):
        fact = split.facts[first + place]
        store_int32(out, item + 4 * place, number[columns.item[fact]])
        store_int32(out, context + 4 * place, local[columns.context[fact]])
        store_int32(out, impressions + 4 * place, np.int32(columns.impressions[fact]))
        store_int32(out, reward + 4 * place, np.int32(columns.reward[fact]))
        store_int32(out, topic + 4 * place, columns.cause_topic[fact])
        store_int64(out, offset + 8 * place, columns.cause_offset[fact])
        store_int32(out, index + 4 * place, columns.cause_index[fact])
    return index + 4 * count


def _entries(sources: int) -> tuple[Any, Any]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def measure_parts(columns, of_item, split, number, seen):  # type: ignore[no-untyped-def]
        """Fill a `Split`, and the number of each item within its part.

        Args:
            columns: `FactColumns`.
            of_item: int64, partition of each item.
            split: its `facts` empty, its ends zeros; filled.
            number: int32 of each item, filled.
            seen: int32 of each context, -1 everywhere.
        """
        partitions, context_ends = len(split.fact_ends) - 1, pointer(columns.context_ends)
        for fact in range(len(columns.item)):
            split.fact_ends[of_item[columns.item[fact]] + 1] += 1
        for part in range(partitions):
            split.fact_ends[part + 1] += split.fact_ends[part]
        after = split.fact_ends.copy()
        for fact in range(len(columns.item)):
            part = of_item[columns.item[fact]]
            split.facts[after[part]] = fact
            after[part] += 1
        items = np.zeros(partitions, np.int64)
        for item in range(len(number)):
            part, size = of_item[item], columns.item_size[item]
            number[item] = items[part]
            items[part] += 1
            split.body_ends[part + 1] += head_size(_ITEM_IDS, size) + size
        for part in range(partitions if sources >= 0 else 0):  # the number becomes part of the key in the cache
            first, end = split.fact_ends[part], split.fact_ends[part + 1]
            contexts = elements = 0
            for place in range(first, end):
                context = columns.context[split.facts[place]]
                if seen[context] != part:
                    seen[context] = part
                    contexts += 1
                    elements += _context_size(context_ends, context)
            split.body_ends[part + 1] += split.body_ends[part] + _column_sizes(contexts, elements, end - first)

    @njit(cache=True, nogil=True)
    def write_parts(columns, of_item, split, number, seen, local, out):  # type: ignore[no-untyped-def]
        """Write the bodies of all parts.

        Args:
            columns: `FactColumns`.
            of_item: int64, partition of each item.
            split: as `measure_parts` left it.
            number: likewise.
            seen: int32 of each context, -1 everywhere.
            local: int32 of each context, room for its number within a part.
            out: uint8, as many as the last of `body_ends`; filled.
        """
        data, names = pointer(out), pointer(columns.item_data)
        partitions, context_ends = len(split.fact_ends) - 1, pointer(columns.context_ends)
        at = split.body_ends[:partitions].copy()
        for item in range(len(number) if sources >= 0 else 0):
            part, size = of_item[item], columns.item_size[item]
            at[part] = put_head(data, at[part], _ITEM_IDS, size)
            at[part] = put_piece(data, at[part], names, columns.item_at[item], size)
        for part in range(partitions):
            contexts = elements = 0
            for place in range(split.fact_ends[part], split.fact_ends[part + 1]):
                context = columns.context[split.facts[place]]
                if seen[context] != part:
                    seen[context] = part
                    contexts += 1
                    elements += _context_size(context_ends, context)
            for place in range(split.fact_ends[part], split.fact_ends[part + 1]):
                seen[columns.context[split.facts[place]]] = -1
            end = _put_contexts(columns, split, part, seen, local, data, at[part], contexts, elements)
            _put_facts(columns, split, part, number, local, data, end)

    return measure_parts, write_parts


def _int32(column: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(column, np.int32)


def _int64(column: npt.NDArray[Any]) -> Int64:
    return np.ascontiguousarray(column, np.int64)


measure_parts, write_parts = _entries(fingerprint(numba_memory, writers))

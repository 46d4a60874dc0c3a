"""Compiled filling of many slates in one call.

Invariant: each slate is what `bandits.numba_requests.fill_slate` makes of it alone.
"""

import sys
from typing import Any

from numba import njit

from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_requests import fill_slate
from bandits.slates_numba import FILLING
from server.packed.read_packed import WIDEST


@inner
def _fill_packed(  # type: ignore[no-untyped-def]
    view, kept, places, kept_ends, users, affinities, user_sizes, compiled, modes, policies, sizes, seeds, top_m,
    shares, redraws, quantiles, tables, table_at, ends, candidates, numbers, explored,
):  # fmt: skip
    """Fill those slates that are `compiled` and whose size is not 0.

    `view`, `quantiles`: as `fill_slate`; `kept` to `user_sizes`: as `read_packed` fills them; `modes` (uint8) are
    rows of `policies` (float64) and `shares`; `sizes` and `redraws` (int64) are of each slate; `tables` has rank
    tables side by side, `table_at` (int64, six a slate) says where head and band of each begin, and their shapes.
    Filled are `candidates` (int32), `numbers` (float64, four rows) and `explored` (uint8): the entries of each
    slate up to its `ends`.
    """
    start = 0
    for slate in range(len(kept_ends)):
        end, size = kept_ends[slate], sizes[slate]
        if size and compiled[slate]:
            user, k, mode = slate * WIDEST, user_sizes[slate], modes[slate]
            head_at, head_rows, head_columns, band_at, band_rows, band_columns = table_at[slate]
            head = tables[head_at : head_at + head_rows * head_columns].reshape((head_rows, head_columns))
            band = tables[band_at : band_at + band_rows * band_columns].reshape((band_rows, band_columns))
            chosen, filled, drawn = fill_slate(
                view,
                kept[start:end],
                users[user : user + k],
                affinities[user : user + k],
                policies[mode],
                quantiles,
                seeds[slate],
                size,
                min(top_m, end - start),
                shares[mode],
                redraws[slate],
                head,
                band,
            )
            to = ends[slate] - size
            for slot in range(size):
                candidates[to + slot] = places[start + chosen[slot]]
                explored[to + slot] = drawn[slot]
                for row in range(4):
                    numbers[row, to + slot] = filled[row, slot]
        start = end


def _entry(sources: int) -> Any:
    """`_fill_packed` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def fill_packed(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return _fill_packed(*arguments)

    return fill_packed


fill_packed = _entry(fingerprint(*FILLING, sys.modules[__name__]))

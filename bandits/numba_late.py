"""Where the compiled `integrated` lies in memory, cached on disk for its sources."""

from functools import cache
from typing import Any

from numba import carray, cfunc, types  # type: ignore[attr-defined]

from bandits import (
    drawn_ranks,
    numba_integrated,
    numba_lanes,
    numba_memory,
    numba_ranks,
    numba_slates,
    policies,
    slate_propensity,
)
from bandits.numba_cache import fingerprint
from bandits.numba_integrated import ARGUMENTS, integrated

_SOURCES = (
    *(numba_integrated, numba_lanes, numba_memory, numba_ranks, numba_slates),
    *(drawn_ranks, policies, slate_propensity),
)


@cache
def integrated_address() -> int:
    """Address for `bandits.numba_integrated.integrated_at`, of code that lives as long as the process."""
    return int(_entry(fingerprint(*_SOURCES)).address)


@cache
def _entry(sources: int) -> Any:
    @cfunc(types.void(*ARGUMENTS), cache=True)
    def entry(  # type: ignore[no-untyped-def]
        mean,
        width,
        n,
        factor,
        normal,
        chosen,
        size,
        top_m,
        share,
        head,
        slots,
        ranks,
        band,
        starts,
        places,
        propensity,
    ):
        if sources < 0:
            return
        integrated(
            carray(mean, n), carray(width, n), factor, normal != 0, carray(chosen, size), top_m, share,
            carray(head, (slots, ranks)), carray(band, (starts, places)), carray(propensity, size),
        )  # fmt: skip

    return entry

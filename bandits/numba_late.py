"""Code that others call by its address: what fills a slate, what picks it, and what integrates propensities.

Numba compiles what a function calls into the function; these take longer to compile than all that calls them. So
each is compiled once and cached on disk for its sources.
"""

from functools import cache
from typing import Any

from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]

from bandits import (
    drawn_ranks,
    draws,
    numba_addresses,
    numba_draws,
    numba_integrated,
    numba_kernels,
    numba_lanes,
    numba_memory,
    numba_propensity,
    numba_ranks,
    numba_requests,
    numba_scores,
    numba_serving_rows,
    numba_slates,
    policies,
    slate_propensity,
)
from bandits.numba_cache import fingerprint
from bandits.numba_integrated import integrated
from bandits.numba_requests import pick_into, score_and_pick
from bandits.numba_scores import POLICY, VIEW

_INTEGRATING = (
    *(numba_addresses, numba_integrated, numba_lanes, numba_memory, numba_ranks, numba_slates),
    *(drawn_ranks, policies, slate_propensity),
)
_PICKING = (
    *(numba_addresses, numba_draws, numba_integrated, numba_memory, numba_propensity, numba_requests, numba_scores),
    *(numba_slates, drawn_ranks, draws, policies, slate_propensity),
)
_FILLING = (
    *(numba_addresses, numba_draws, numba_kernels, numba_memory, numba_requests, numba_scores, numba_serving_rows),
    *(draws, policies),
)
_VIEW, _POLICY = len(VIEW), len(POLICY)


def was_compiled() -> bool:
    """Whether this was asked before on this machine, of the same sources: then what they make is on disk by now."""
    asked = _asked(fingerprint(*_INTEGRATING, *_FILLING, *_PICKING))
    asked()
    return bool(asked.stats.cache_hits)


def _asked(sources: int) -> Any:
    @njit(cache=True)
    def asked() -> int:
        return sources

    return asked


@cache
def integrated_address() -> int:
    """Address for `bandits.numba_integrated.integrated_at`, of code that lives as long as the process."""
    return int(_integrating(fingerprint(*_INTEGRATING)).address)


@cache
def filling_address() -> int:
    """Address for `bandits.numba_requests.fill_slate`, likewise."""
    return int(_filling(fingerprint(*_FILLING)).address)


@cache
def picking_address() -> int:
    """Address for `bandits.numba_requests.pick_at`, likewise."""
    return int(_picking(fingerprint(*_PICKING)).address)


@cache
def _integrating(sources: int) -> Any:
    @cfunc(types.void(*numba_integrated.ARGUMENTS), cache=True)
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


@cache
def _filling(sources: int) -> Any:
    @cfunc(types.void(*numba_requests.ARGUMENTS), cache=True)
    def entry(  # type: ignore[no-untyped-def]
        view,
        items,
        n,
        clusters,
        weights,
        k,
        policy,
        quantiles,
        n_quantiles,
        seed,
        top_m,
        share,
        redraws,
        head,
        slots,
        ranks,
        band,
        starts,
        places,
        chosen,
        numbers,
        explored,
        size,
    ):
        if sources < 0:
            return
        score_and_pick(
            carray(view, _VIEW), carray(items, n), carray(clusters, k), carray(weights, k), carray(policy, _POLICY),
            carray(quantiles, n_quantiles), seed, top_m, share, redraws,
            carray(head, (slots, ranks)), carray(band, (starts, places)),
            carray(chosen, size), carray(numbers, (4, size)), carray(explored, size),
        )  # fmt: skip

    return entry


@cache
def _picking(sources: int) -> Any:
    @cfunc(types.void(*numba_requests.PICKING_ARGUMENTS), cache=True)
    def entry(  # type: ignore[no-untyped-def]
        late,
        score,
        mean,
        width,
        keys,
        n,
        policy,
        quantiles,
        n_quantiles,
        seed,
        top_m,
        share,
        redraws,
        head,
        slots,
        ranks,
        band,
        starts,
        places,
        chosen,
        numbers,
        explored,
        size,
    ):
        if sources < 0:
            return
        pick_into(
            late, carray(score, n), carray(mean, n), carray(width, n), carray(keys, n), carray(policy, _POLICY),
            carray(quantiles, n_quantiles), seed, top_m, share, redraws,
            carray(head, (slots, ranks)), carray(band, (starts, places)),
            carray(chosen, size), carray(numbers, (4, size)), carray(explored, size),
        )  # fmt: skip

    return entry

"""Joining clicks with impressions, as columns, by size of the micro-batch."""

import numpy as np

from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from benchmarks.events import ITEMS_A_SLATE, clicks, slates, small_catalogue
from benchmarks.measure import ROUNDS, Result, interleaved
from streams.event_codec import Record, click_columns, impression_columns

TITLE = "Joiner: rows a second"
ABOUT = (
    "Slates of five items, K = 10, a click on every second slate; a row is one shown item. `join` and `apply` over "
    "columns, after decoding; the tally must show every row accepted and every click joined."
)
_NOW_MS = 1_700_000_000_000


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(4)
    graph = small_catalogue(200, 16, 4, rng)
    rounds, total = (2, 20) if quick else (ROUNDS, 4_000)
    results = []
    for size in (5,) if quick else (2, 20, 200, 4_000):
        batches = [
            [
                _batch(slates(graph, size, prefix=f"{number}-{part}", now_ms=_NOW_MS, rng=rng))
                for part in range(total // size)
            ]
            for number in range(rounds)
        ]
        joiner = Joiner(JoinRule())

        def fold(number: int, joiner: Joiner = joiner, batches: list = batches) -> None:
            for impressions, reactions in batches[number]:
                joiner.apply(joiner.join(impressions, reactions)[1])

        spent = interleaved({"join": fold}, rounds=rounds)["join"]
        rows = total * ITEMS_A_SLATE
        assert joiner.tally.impressions_accepted == rows * rounds
        assert joiner.tally.clicks_joined == sum(len(reactions) for parts in batches for _, reactions in parts)
        rates = [rows / seconds for seconds in spent]
        results.append(Result.of(f"micro-batch of {size * ITEMS_A_SLATE:,} rows", rates, "rows/s"))
    return results


def _batch(shown: list) -> tuple:
    impressions = impression_columns([Record(0, _NOW_MS, shown)], JoinRule())
    return impressions, click_columns([Record(0, _NOW_MS, clicks(shown))], JoinRule())

"""A real log through joiner and learner: events a second, and the same hash every time."""

import os
import time
from pathlib import Path

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from benchmarks.measure import ROUNDS, Result
from streams.logs import read_kuairand, read_open_bandit
from streams.replay import replay

TITLE = "Replay: KuaiRand"
ABOUT = (
    "228,329 real impressions and their clicks (data folder, FRESHET_TEST_DATA) through joiner and learner, read "
    "beforehand; CPU time. The state hash is the same in every round and for every size of micro-batch."
)


def run(quick: bool) -> list[Result]:
    folder = Path(os.environ.get("FRESHET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        return []
    # The small log is read in a moment, the other one is not.
    log = (
        read_open_bandit(folder / "obd" / "random" / "men" / "men.csv")
        if quick
        else read_kuairand(folder / "kuairand")
    )
    results, hashes = [], set()
    backend = choose_backend("auto")
    for batch_rows in (100,) if quick else (1_000, 20_000):
        rates = []
        for _ in range(2 if quick else ROUNDS):
            report = replay(
                log,
                rule=JoinRule(),
                backend=backend,
                batch_rows=batch_rows,
                clock=time.process_time,
                progress=lambda done: None,
            )
            rates.append(report.events_per_second)
            hashes.add(report.state_hash)
        results.append(Result.of(f"micro-batch of {batch_rows:,} rows", rates, "events/s"))
    assert len(hashes) == 1
    return results

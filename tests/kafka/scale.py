"""How long the fault tests are, and the seed that they run with.

FRESHET_TEST_SCALE=25 makes their floods, feeds and kills so many times longer than in CI; FRESHET_TEST_SEED replays
a run whose seed was printed.
"""

import os
import random

SCALE = int(os.environ.get("FRESHET_TEST_SCALE", "1"))


def new_seed() -> int:
    """A seed, printed so that a failed run can be replayed."""
    seed = int(os.environ.get("FRESHET_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}, scale {SCALE}")  # noqa: T201 - replays the run
    return seed

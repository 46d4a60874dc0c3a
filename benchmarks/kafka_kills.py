"""Workers killed again and again under a steady feed: is anything lost or doubled?

    python -m benchmarks.kafka_kills --bootstrap 127.0.0.1:9092 [--kills 200] [--seed N]

Every tenth kill also empties the disk. At the end, and every fifty kills, what the parameters topic holds is held
against a simple program's fold of the source log, bit for bit. Exit code 1 if they ever differ.
"""

import argparse
import random
import tempfile
import time
import uuid
from collections import Counter

from tests.kafka.cluster import Cluster


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills of {options.workers} workers, 8 + 8 partitions", flush=True)
    rng = random.Random(options.seed)
    cluster = Cluster(options.bootstrap, f"kills-{uuid.uuid4().hex[:8]}", tempfile.mkdtemp())
    source = cluster.feed(options.seed)
    began_s, done = time.monotonic(), Counter()
    try:
        for number in range(options.workers):
            cluster.start(number)
        for kill in range(1, options.kills + 1):
            until_s = time.monotonic() + rng.uniform(0.05, 3.0)
            while time.monotonic() < until_s:
                source.step(5)
                time.sleep(0.05)
            number = rng.randrange(options.workers)
            ended = cluster.workers[number].poll()
            done["had ended by itself" if ended is not None else "killed"] += 1
            cluster.kill(number)
            if kill % 10 == 0:
                cluster.wipe(number)
                done["disks emptied"] += 1
            cluster.start(number)
            if kill % 50 == 0 or kill == options.kills:
                source.finish()
                expected = cluster.wait_until_learned(120)
                shown = sum(n for n, _ in expected.items.values())
                print(f"{kill} kills, {shown:,} impressions, {len(expected.edges)} edges: equal", flush=True)
    except AssertionError as error:
        print(f"DIFFERENT after {done}: {error}")
        return 1
    finally:
        cluster.stop()
        source.close()
    print(f"{dict(done)}, {source.sent}, {time.monotonic() - began_s:.0f} s: 0 lost, 0 doubled")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

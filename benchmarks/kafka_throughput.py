"""Item-impressions a second of one worker that catches up, beside a consumer that does nothing.

`python -m benchmarks.kafka_throughput [--quick] [--rounds N]`

Both read the same topics in the same round, in turn first; the worker's rate ends when everything is learned,
synced and published. The worker's processes start with empty stores; compiled code comes from the cache on disk.
"""

import shutil
import statistics
import sys

from benchmarks.kafka_events import ENCODINGS, make_graph, make_source
from benchmarks.kafka_site import PARTITIONS, Site, load, parser, site
from benchmarks.measure import machine
from streams.topics import TopicNames

ITEMS, CLUSTERS = 20_000, 1_024


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--slates", type=int, default=40_000, help="of single events; packed takes twice as many"
    )
    arguments.add_argument("--encoding", action="append", choices=ENCODINGS)
    options = arguments.parse_args()
    slates = 800 if options.quick else options.slates
    print(machine(), flush=True)
    with site(make_graph(ITEMS, CLUSTERS)) as place:
        for encoding in options.encoding or ENCODINGS:
            count = slates * (2 if "packed" in encoding else 1)
            rounds = [_round(place, encoding, count, number) for number in range(options.rounds)]
            _report(encoding, rounds)
    return 0


def _round(place: Site, encoding: str, slates: int, number: int) -> dict[str, float]:
    prefix = f"bench-{ENCODINGS.index(encoding)}-{number}"
    source = make_source(
        encoding, slates=slates, items=ITEMS, clusters=CLUSTERS, partitions=PARTITIONS, seed=number
    )
    place.make_topics(prefix)
    place.fill(prefix, source)
    spent = {}
    for contender in ("bare", "worker") if number % 2 else ("worker", "bare"):
        before = load()
        spent[contender] = _bare(place, prefix) if contender == "bare" else _worker(place, prefix)
        print(f"  {encoding}, round {number}, {contender}: {_brief(spent[contender], source)} (load {before})")
        sys.stdout.flush()
    assert spent["worker"]["facts"] == source.item_impressions + _clicks(source), spent["worker"]["facts"]
    place.drop_topics(prefix)
    shutil.rmtree(place.folder / f"worker-{prefix}")
    shown, bare, worker = source.item_impressions, spent["bare"], spent["worker"]
    return {
        "bare/s": shown / bare["wall_s"],
        "worker/s": shown / worker["wall_s"],
        "bare us": bare["cpu_s"] / shown * 1e6,
        "worker us": worker["cpu_s"] / shown * 1e6,
        "wall ratio": bare["wall_s"] / worker["wall_s"],
        "cpu ratio": bare["cpu_s"] / worker["cpu_s"],
        "bytes": bare["bytes"] / slates,
    }


def _clicks(source) -> int:
    return (source.slates + 4) // 5


def _bare(place: Site, prefix: str) -> dict:
    names = TopicNames(prefix)
    settings = {"bootstrap": place.bootstrap, "topics": [names.impressions, names.clicks]}
    return _ended(place.child("benchmarks.kafka_bare", settings), "read")


def _worker(place: Site, prefix: str) -> dict:
    return _ended(place.worker(prefix, watch="end"), "done")


def _ended(child, event: str) -> dict:
    told = child.expect(event)
    child.process.wait(60)
    child.process.stdout.close()
    return told


def _brief(spent: dict, source) -> str:
    rate = source.item_impressions / spent["wall_s"]
    threads = {name: round(seconds, 2) for name, seconds in spent.get("threads", {}).items() if seconds > 0.02}
    return f"{rate:,.0f} item-impressions/s, {spent['wall_s']:.2f} s, CPU {spent['cpu_s']:.2f} s {threads or ''}"


def _report(encoding: str, rounds: list[dict[str, float]]) -> None:
    print(encoding)
    for name in rounds[0]:
        values = sorted(one[name] for one in rounds)
        print(f"  {name:<12} {statistics.median(values):>12,.3f}  [{values[0]:,.3f} .. {values[-1]:,.3f}]")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

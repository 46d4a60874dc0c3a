"""Where a catching-up worker's CPU time goes, stage by stage, in microseconds for each item-impression.

`python -m benchmarks.kafka_profile [--quick] [--encoding protobuf ...]`

The stages are those of `kafka_stages`. What reading by way of messages would cost is timed apart, on the same
values, as timers around every event would cost as much as what they measure.
"""

import shutil
import sys
import time
from collections.abc import Callable

from bandits.join_rule import JoinRule
from benchmarks.kafka_events import ENCODINGS, ITEMS_A_SLATE, Source, make_graph, make_source
from benchmarks.kafka_site import PARTITIONS, Site, load, parser, site
from benchmarks.kafka_throughput import CLUSTERS, ITEMS
from freshet.v1 import events_pb2
from streams.kafka import source_codec
from streams.validation import check_impression

_ROUNDS = 5
_VALUES = 4_000


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--encoding", action="append", choices=ENCODINGS)
    arguments.add_argument("--steady", type=float, help="instead: with so many item-impressions a second coming in")
    options = arguments.parse_args()
    with site(make_graph(ITEMS, CLUSTERS)) as place:
        if options.steady:
            _steady(place, options.steady)
            return 0
        for encoding in options.encoding or ENCODINGS:
            slates = (800 if options.quick else 40_000) * (2 if "packed" in encoding else 1)
            source = make_source(
                encoding, slates=slates, items=ITEMS, clusters=CLUSTERS, partitions=PARTITIONS, seed=9
            )
            _profile(place, encoding, source)
            _decode(encoding, source)
    return 0


def _profile(place: Site, encoding: str, source: Source) -> None:
    prefix = f"profile-{ENCODINGS.index(encoding)}"
    place.make_topics(prefix)
    place.fill(prefix, source)
    before = load()
    child = place.worker(prefix, watch="stages")
    told = child.expect("done")
    child.process.wait(60)
    place.drop_topics(prefix)
    shutil.rmtree(place.folder / f"worker-{prefix}")
    shown = source.item_impressions
    print(f"{encoding}: {shown:,} item-impressions, {told['wall_s']:.2f} s (load {before})")
    _print_stages(told, shown)


def _print_stages(told: dict, shown: float) -> None:
    spent = dict(told["stages"])
    for name, seconds in told["threads"].items():
        if name != "MainThread":
            spent[f"thread {name}"] = (seconds, 0, 0.0)
    total = sum(seconds for seconds, _, _ in spent.values())
    print(f"  {total:.2f} s CPU, wall seconds last")
    for name, (seconds, calls, wall_s) in sorted(spent.items(), key=lambda pair: -pair[1][0]):
        print(
            f"  {name:<36}{seconds / shown * 1e6:8.3f} us {seconds / total:7.1%} {calls:6,} calls, {wall_s:.2f} s"
        )
    sys.stdout.flush()


def _steady(place: Site, rate: float) -> None:
    place.make_topics("steady")
    child = place.worker("steady", watch="steady")
    child.expect("ready")
    seconds = 25.0
    settings = {"slates": round(rate * seconds / ITEMS_A_SLATE), "items": ITEMS, "clusters": CLUSTERS, "seed": 1}
    settings |= {"partitions": PARTITIONS, "seconds": seconds, "bootstrap": place.bootstrap, "prefix": "steady"}
    traffic = place.child("benchmarks.kafka_traffic", settings)
    traffic.expect("sending")
    child.expect("ready")
    before = load()
    told = child.expect("steady")
    print(f"{rate:,.0f} item-impressions/s coming in (load {before})")
    _print_stages(told, rate * told["wall_s"])
    traffic.expect("sent")


def _decode(encoding: str, source: Source) -> None:
    decoder = source_codec.impression_decoder(JoinRule())
    values = [value for part in source.impressions for _, value in part][:_VALUES]
    records = [_Record(offset, value) for offset, value in enumerate(values)]
    parsed = [event for record in records for event in decoder._events(record)]
    rule = decoder._rule
    shown = sum(len(event.items) for event in parsed)

    def convert() -> None:
        for record in records:
            decoder._events(record)

    def validate() -> None:
        for event in parsed:
            check_impression(event, rule, record_ms)

    record_ms = records[0].timestamp
    whole = _seconds(lambda: decoder.decode(records, clock_ms=0))
    parts = {"bytes to messages": _seconds(convert), "validate": _seconds(validate)}
    parts["records of them"] = whole - sum(parts.values())
    for name, seconds in parts.items():
        print(f"    by messages: {name:<19}{seconds / shown * 1e6:10.3f} us")
    compiled = _seconds(lambda: decoder.columns(records, clock_ms=0))
    print(f"    compiled, all of it and columns {compiled / shown * 1e6:8.3f} us")
    if encoding == "protobuf":
        bare = _seconds(lambda: [events_pb2.Impression.FromString(value) for value in values])
        print(f"    FromString alone {bare / shown * 1e6:23.3f} us")
    sys.stdout.flush()


class _Record:
    """A record as the client hands it over."""

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value = offset, value
        self.timestamp, self.timestamp_type = 1_700_000_000_000, 1
        self.key, self.headers = b"key", ()


def _seconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        work()
        spent.append(time.thread_time() - began)
    return min(spent)


if __name__ == "__main__":
    sys.exit(main())

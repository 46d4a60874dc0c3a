"""A worker with an empty disk and a server that has just started: seconds until they are ready.

`python -m benchmarks.kafka_restart [--quick] [--items N]`

31,250 items x 32 edges = 1,000,000 edges, every one of them learned from the topics before. The worker restores its
rows from the parameters topic, and joins again what its open window holds of the impressions topic. Both counted
from the start of the process, imports included; a worker also with its disk kept, for comparison.
"""

import shutil
import signal
import sys
import time

from benchmarks.kafka_events import DEGREE, PROBES, make_graph, make_source
from benchmarks.kafka_site import PARTITIONS, Site, load, parser, serve, site
from benchmarks.measure import machine

_CLUSTERS = 1_024
_TIMES_SHOWN = 2


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--items", type=int, default=31_250, help="that are shown")
    options = arguments.parse_args()
    items = 4_000 if options.quick else options.items
    print(machine(), flush=True)
    with site(make_graph(items + PROBES, _CLUSTERS)) as place:
        place.make_topics("restart")
        source = make_source(
            "protobuf packed",
            slates=items * _TIMES_SHOWN // 5,
            items=items + PROBES,
            clusters=_CLUSTERS,
            partitions=PARTITIONS,
            seed=3,
            even=True,
        )
        place.fill("restart", source)
        print(f"{items:,} items x {DEGREE} edges, {source.item_impressions:,} item-impressions in the window")
        _restart(place, "first start", wipe=False)
        for _ in range(2):
            _restart(place, "disk kept", wipe=False)
            _restart(place, "empty disk", wipe=True)
            _serve(place)
    return 0


def _restart(place: Site, name: str, *, wipe: bool) -> None:
    if wipe:
        shutil.rmtree(place.folder / "worker-restart")
    before, began = load(), time.time()
    worker = place.worker("restart", watch="ready")
    ready = worker.expect("ready")
    ready_s = ready["at_s"] - began
    worker.expect("done", 200)
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait(30)
    shift = ready_s - ready["ready_s"]  # of the interpreter, before it can look at a clock
    print(
        f"worker, {name}: ready after {ready_s:.2f} s (imports {ready['imported_s'] + shift:.2f}, started "
        f"{ready['started_s'] + shift:.2f}, learners {ready['learners_s'] + shift:.2f}); {ready['rows']:,} rows, "
        f"{ready['pending']:,} pending (load {before})",
        flush=True,
    )


def _serve(place: Site) -> None:
    before, began = load(), time.time()
    server = serve(place, "restart")
    print(f"server: answers after {time.time() - began:.2f} s (load {before})", flush=True)
    server.stop()


if __name__ == "__main__":
    sys.exit(main())

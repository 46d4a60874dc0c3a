"""From the broker's acknowledgement of an event to its row, and to a score that shows it, while traffic runs.

`python -m benchmarks.kafka_freshness [--capacity ITEM_IMPRESSIONS_A_SECOND] [--quick]`

A probe is an impression and a click of an item that nobody else shows, sent like any other event and tagged by the
item. Probes start every 100 ms whatever became of those before, so that a stall hurts all that fall into it. The
clock starts when the broker has acknowledged both, and stops at the first row with both (a consumer of the
parameters topic), and at the first Score reply whose mean has moved (a `freshet serve --kafka`, asked every 5 ms).
"""

import asyncio
import sys
import time

import grpc
import numpy as np
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.kafka_events import ITEMS_A_SLATE, PROBES, make_graph, make_source
from benchmarks.kafka_site import PARTITIONS, Site, load, parser, serve, site
from benchmarks.kafka_throughput import CLUSTERS, ITEMS
from freshet.v1 import events_pb2, parameters_pb2, recommender_pb2, recommender_pb2_grpc
from streams.topics import TopicNames

SHARES = (0.1, 0.5, 0.9)
_PROBE_S = 0.1
_SETTLE_S = 3.0
_SLATES_FOR_CAPACITY = 40_000
_ASK_S = 0.005
_PATIENCE_S = 60.0
_CONTEXT = events_pb2.ClusterWeights(cluster_ids=range(10), weights=[0.1] * 10)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--capacity", type=float, help="item-impressions a second; measured if not given")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of probes at each load")
    arguments.add_argument("--partitions", type=int, default=PARTITIONS, help="of every topic")
    options = arguments.parse_args()
    uvloop.install()
    seconds = 3.0 if options.quick else options.seconds
    with site(make_graph(ITEMS, CLUSTERS), partitions=options.partitions) as place:
        capacity = options.capacity or _capacity(place, 1_000 if options.quick else _SLATES_FOR_CAPACITY)
        place.make_topics("fresh")
        place.worker("fresh", watch="ready").expect("ready")
        server = serve(place, "fresh")
        try:
            probes = iter(range(PROBES))
            for share in (0.0, *SHARES):
                rate = capacity * share / ITEMS_A_SLATE
                _measure(place, server.addresses["serving"], share, rate, seconds, probes)
        finally:
            server.stop()
    return 0


def _capacity(place: Site, slates: int) -> float:
    """What the worker manages when it catches up on single protobuf events, now, on this machine."""
    source = make_source(
        "protobuf", slates=slates, items=ITEMS, clusters=CLUSTERS, partitions=place.partitions, seed=5
    )
    place.make_topics("capacity")
    place.fill("capacity", source)
    before = load()
    child = place.worker("capacity", watch="end")
    capacity = source.item_impressions / child.expect("done")["wall_s"]
    child.process.wait(60)
    place.drop_topics("capacity")
    print(f"capacity: {capacity:,.0f} item-impressions/s (load {before})", flush=True)
    return capacity


def _measure(place: Site, address: str, share: float, rate: float, seconds: float, probes) -> None:
    traffic = None
    if rate:
        settings = {"slates": round(rate * (seconds + _SETTLE_S + 1)), "items": ITEMS, "clusters": CLUSTERS}
        settings |= {
            "partitions": place.partitions,
            "seed": round(rate),
            "bootstrap": place.bootstrap,
            "prefix": "fresh",
        }
        traffic = place.child("benchmarks.kafka_traffic", settings | {"seconds": seconds + _SETTLE_S + 1})
        traffic.expect("sending")
        time.sleep(_SETTLE_S)
    before = load()
    numbers = [next(probes) for _ in range(round(seconds / _PROBE_S))]
    seen = asyncio.run(Probing(place.bootstrap, address, place.partitions).run(numbers))
    sent = traffic.expect("sent") if traffic else {"slates_per_s": 0.0}
    carried = sent["slates_per_s"] * ITEMS_A_SLATE
    print(
        f"{share:.0%} of capacity: {carried:,.0f} item-impressions/s carried, {len(numbers)} probes (load {before})"
    )
    for name, spent_s in seen.items():
        p50, p90, p99 = np.percentile(np.array(spent_s) * 1e3, (50, 90, 99))
        print(
            f"  acknowledged -> {name:<6} p50 {p50:7.0f} ms, p90 {p90:7.0f} ms, p99 {p99:7.0f} ms, {len(spent_s)}"
        )
    sys.stdout.flush()


class Probing:
    """Sends probes and watches for them."""

    def __init__(self, bootstrap: str, address: str, partitions: int) -> None:
        self._bootstrap, self._address, self._partitions = bootstrap, address, partitions
        self._names = TopicNames("fresh")
        self._acknowledged: dict[str, float] = {}
        self._row: dict[str, float] = {}
        self._score: dict[str, float] = {}

    async def run(self, numbers: list[int]) -> dict[str, list[float]]:
        """Seconds from acknowledgement to row and to score, of the probes that were seen."""
        self._wanted = {f"item-{number}" for number in numbers}
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, fetch_max_wait_ms=100, max_partition_fetch_bytes=4 << 20
        )
        await producer.start()
        await consumer.start()
        tps = [TopicPartition(self._names.parameters, number) for number in range(self._partitions)]
        consumer.assign(tps)
        for tp in tps:
            await consumer.seek_to_end(tp)
        watching = []
        try:
            async with grpc.aio.insecure_channel(self._address) as channel:
                stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
                watching = [asyncio.ensure_future(self._watch_rows(consumer))]
                watching.append(asyncio.ensure_future(self._watch_scores(stub)))
                await self._send(producer, numbers)
                deadline = time.perf_counter() + _PATIENCE_S
                while min(len(self._row), len(self._score)) < len(numbers) and time.perf_counter() < deadline:
                    await asyncio.sleep(0.05)
                    for task in watching:
                        if task.done():
                            task.result()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await consumer.stop()
            await producer.stop()
        return {
            name: [seen[item] - self._acknowledged[item] for item in seen]
            for name, seen in (("row", self._row), ("score", self._score))
        }

    async def _send(self, producer: AIOKafkaProducer, numbers: list[int]) -> None:
        began = time.perf_counter()
        sending = []
        for turn, number in enumerate(numbers):
            await asyncio.sleep(max(0.0, began + turn * _PROBE_S - time.perf_counter()))
            sending.append(asyncio.ensure_future(self._send_one(producer, f"item-{number}")))
        await asyncio.gather(*sending)

    async def _send_one(self, producer: AIOKafkaProducer, item: str) -> None:
        request = f"probe-{time.time_ns()}-{item}"
        shown = events_pb2.Impression(request_id=request, context=_CONTEXT, items=[{"item_id": item}])
        click = events_pb2.Click(request_id=request, item_id=item)
        await asyncio.gather(
            producer.send_and_wait(self._names.impressions, shown.SerializeToString(), key=request.encode()),
            producer.send_and_wait(self._names.clicks, click.SerializeToString(), key=request.encode()),
        )
        self._acknowledged[item] = time.perf_counter()

    async def _watch_rows(self, consumer: AIOKafkaConsumer) -> None:
        wanted = {item.encode() for item in self._wanted}
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                now = time.perf_counter()
                for record in records:
                    if record.key in wanted:
                        row = parameters_pb2.ItemParameters.FromString(record.value)
                        if row.n and row.s:
                            wanted.discard(record.key)
                            self._row[record.key.decode()] = now

    async def _watch_scores(self, stub: recommender_pb2_grpc.RecommenderServiceStub) -> None:
        left = set(self._wanted)
        while left:
            request = recommender_pb2.ScoreRequest(
                cluster_weights=_CONTEXT, item_ids=sorted(left), mode=events_pb2.MODE_EXPLOIT, seed=1
            )
            # Without feedback an item of the prior mean 0 stays there: only a click moves it.
            for item in (await stub.Score(request)).items:
                if item.mean > 0:
                    left.discard(item.item_id)
                    self._score[item.item_id] = time.perf_counter()
            await asyncio.sleep(_ASK_S)


if __name__ == "__main__":
    sys.exit(main())

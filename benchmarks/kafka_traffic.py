"""Steady traffic of single protobuf events. Run by the benchmarks as a process of its own, with JSON settings.

Invariant: everything is made beforehand; every tick sends its share, and a tick that is late is not dropped, so
that what was sent says whether the broker took the rate.
"""

import asyncio
import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.kafka_events import Source, make_source
from streams.topics import TopicNames

_TICK_S = 0.05


async def produce(*, bootstrap: str, prefix: str, seconds: float, **of_source: int) -> dict:
    names = TopicNames(prefix)
    source = make_source("protobuf", prefix=f"t{time.time_ns()}", **of_source)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=1 << 20)
    await producer.start()
    print(json.dumps({"event": "sending"}), flush=True)
    ticks = round(seconds / _TICK_S)
    began = time.perf_counter()
    try:
        for tick in range(ticks):
            await asyncio.gather(*await _send(producer, names, source, tick / ticks, (tick + 1) / ticks))
            await asyncio.sleep(max(0.0, began + (tick + 1) * _TICK_S - time.perf_counter()))
        spent = time.perf_counter() - began
    finally:
        await producer.stop()
    return {"event": "sent", "slates": source.slates, "slates_per_s": source.slates / spent}


async def _send(producer: AIOKafkaProducer, names: TopicNames, source: Source, start: float, end: float) -> list:
    """Send a share of every partition, one record batch each."""
    waiting = []
    for topic, parts in ((names.impressions, source.impressions), (names.clicks, source.clicks)):
        for partition, records in enumerate(parts):
            share = records[int(len(records) * start) : int(len(records) * end)]
            if share:
                batch = producer.create_batch()
                for key, value in share:
                    batch.append(timestamp=None, key=key, value=value)
                batch.close()
                waiting.append(await producer.send_batch(batch, topic, partition=partition))
    return waiting


if __name__ == "__main__":
    uvloop.install()
    print(json.dumps(asyncio.run(produce(**json.loads(sys.argv[1])))), flush=True)

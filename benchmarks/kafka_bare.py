"""A consumer that does nothing: the yardstick. Benchmarks run it as a process of its own, with JSON settings."""

import asyncio
import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

_RECORDS_PER_POLL = 10_000


async def consume(bootstrap: str, topics: list[str]) -> dict:
    """Read some topics to their end with the worker's fetch settings."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1 << 20,
        fetch_max_wait_ms=100,
        check_crcs=True,
    )
    await consumer.start()
    try:
        for topic in topics:
            await consumer._client.add_topic(topic)
        await consumer._client.force_metadata_update()
        tps = [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic)]
        ends = await consumer.end_offsets(tps)
        left = sum(ends.values())
        began, cpu = time.perf_counter(), time.process_time()
        consumer.assign(tps)
        read_bytes = 0
        while left > 0:
            for records in (await consumer.getmany(timeout_ms=500, max_records=_RECORDS_PER_POLL)).values():
                left -= len(records)
                read_bytes += sum(len(record.value) for record in records)
        spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        return {"event": "read", "records": sum(ends.values()), "bytes": read_bytes, **spent}
    finally:
        await consumer.stop()


if __name__ == "__main__":
    uvloop.install()
    print(json.dumps(asyncio.run(consume(**json.loads(sys.argv[1])))), flush=True)

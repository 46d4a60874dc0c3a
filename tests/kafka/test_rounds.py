"""When rounds begin; without a broker."""

import asyncio
from types import SimpleNamespace

from streams.kafka.rounds import Rounds


class Recorded(Rounds):
    """Rounds that only say what they were given."""

    def __init__(self, around):
        super().__init__(around)
        self.committed = asyncio.Queue()

    async def commit(self, taken):
        self.committed.put_nowait([partition for partition, _ in taken])
        await asyncio.sleep(0.01)  # else nobody else would have a turn


class Silent:
    """A partition to which nothing comes, in which something is due."""

    waiting_bytes = 0

    async def start(self, arrived):
        """Nothing is delivered."""

    def ready_in_s(self):
        return 0.0

    async def take(self, limit_bytes):
        return []


def test_what_is_due_in_a_silent_partition_does_not_wait_for_an_event():
    """Rounds that slept, as they had no partition, look at one that is added: its windows close in silence too."""

    async def run():
        settings = SimpleNamespace(round_interval_ms=0, max_batch_bytes=1)
        consumer = SimpleNamespace(thread=SimpleNamespace(wake=lambda: None))
        rounds = Recorded(SimpleNamespace(settings=settings, consumer=consumer))
        running = asyncio.ensure_future(rounds.run())
        await asyncio.sleep(0)
        partition = Silent()
        await rounds.add(partition)
        taken = await asyncio.wait_for(rounds.committed.get(), 10)
        running.cancel()
        assert taken == [partition]

    asyncio.run(run())

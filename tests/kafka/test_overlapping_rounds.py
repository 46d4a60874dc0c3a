"""What of two rounds may overlap, and what may not; without a broker."""

import asyncio
from types import SimpleNamespace

import pytest

from streams.kafka.joiner_rounds import JoinerRounds
from streams.kafka.sender import Outgoing
from streams.kafka.side_threads import SideThreads
from streams.topics import TopicNames

NAMES = TopicNames("overlapping")


class Steps(list):
    """What happened, in order; whoever waits for something to happen is told."""

    def __init__(self):
        super().__init__()
        self._told = asyncio.Event()

    def note(self, step):
        self.append(step)
        self._told.set()

    async def until(self, step):
        while step not in self:
            self._told.clear()
            await asyncio.wait_for(self._told.wait(), 10)


class Partition:
    """A joiner partition that has something to do whenever it is asked, and says what it did."""

    waiting_bytes = 0
    epoch = 1

    def __init__(self, steps):
        self.steps, self.joined = steps, 0
        self.state = SimpleNamespace(head=SimpleNamespace(sent=0, ledger_offsets={}))

    async def start(self, arrived):
        """Nothing is delivered."""

    def ready_in_s(self):
        return 0.0

    async def take(self, limit_bytes):
        return []

    def join(self, chunks, clock_ms):
        self.joined += 1
        self.steps.note(f"join {self.joined}")
        return Joined(self, self.joined)

    def acknowledge(self, change):
        self.steps.note(f"acknowledge {change.sequence}")


class Joined:
    """A micro-batch of it."""

    def __init__(self, partition, sequence):
        self.partition, self.change = partition, SimpleNamespace(sequence=sequence)
        self.outbox = [Outgoing(NAMES.outcomes, 0, None, b"")]
        self.sealed_with = None

    def take_over(self):
        self.partition.steps.note(f"take over {self.change.sequence}")

    def seal(self):
        self.sealed_with = self.partition.state.head.sent

    def write(self):
        self.partition.steps.append(f"write {self.change.sequence}, {self.sealed_with} sent")


class Broker:
    """A sender whose broker answers when it is told to.

    Args:
        steps: of all.
        answers: one is taken for each call; an exception is raised.
    """

    def __init__(self, steps, answers):
        self.steps, self.answers, self.calls = steps, answers, 0

    async def send_batches(self, topic, facts):
        self.calls += 1
        self.steps.note(f"send {self.calls}")
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return {at: [self.calls] for at in facts}


def rounds_of(steps, answers):
    """Rounds over one partition that never rests."""
    around = SimpleNamespace(
        settings=SimpleNamespace(round_interval_ms=0, max_batch_bytes=1),
        names=NAMES,
        consumer=SimpleNamespace(thread=SimpleNamespace(is_sure=True, wake=lambda: None)),
        disk=SideThreads("disk"),
        joins=SideThreads("joins"),
        sender=Broker(steps, answers),
    )
    return JoinerRounds(around), around


def test_one_round_is_joined_while_one_is_on_its_way_and_no_more():
    """The second is neither written nor sent before the first is acknowledged, and nobody joins a third."""

    async def run():
        steps, answers = Steps(), asyncio.Queue()
        rounds, around = rounds_of(steps, answers)
        running = asyncio.ensure_future(rounds.run())
        await rounds.add(Partition(steps))
        await steps.until("send 1")
        await steps.until("take over 2")
        for _ in range(50):
            await asyncio.sleep(0)
        assert sorted(steps) == sorted(
            ["join 1", "take over 1", "write 1, 0 sent", "send 1", "join 2", "take over 2"]
        )
        answers.put_nowait(None)
        await steps.until("send 2")
        assert steps.index("acknowledge 1") < steps.index("write 2, 1 sent") < steps.index("send 2")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        around.disk.close()
        around.joins.close()

    asyncio.run(run())


def test_a_delivery_that_fails_ends_the_rounds():
    """Memory is ahead of the disk then: nothing more may be joined, and the worker must be told."""

    async def run():
        steps, answers = Steps(), asyncio.Queue()
        rounds, around = rounds_of(steps, answers)
        running = asyncio.ensure_future(rounds.run())
        await rounds.add(Partition(steps))
        await steps.until("take over 2")
        answers.put_nowait(RuntimeError("refused"))
        with pytest.raises(RuntimeError, match="refused"):
            await asyncio.wait_for(running, 10)
        assert "write 2, 1 sent" not in steps
        around.disk.close()
        around.joins.close()

    asyncio.run(run())

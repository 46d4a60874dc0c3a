"""Where the worker's main thread spends its CPU time: timers around the stages, and its profile as a benchmark.

Invariants: a stage's time is its own, without that of stages called within it; a stage is synchronous, so that no
other task's work falls into it; stages are called once for each micro-batch or ledger record, not for each event,
so that the timers cost nothing that would show.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any


class StageClock:
    """CPU seconds of the calling thread by stage."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._thread = threading.get_ident()
        self._spent: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._walls: dict[str, float] = {}
        self._inner = [0.0]
        self._began = time.thread_time()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            began, wall = time.thread_time(), time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time() - began
                inner = self._inner.pop()
                self._inner[-1] += whole
                self._spent[stage] = self._spent.get(stage, 0.0) + whole - inner
                self._calls[stage] = self._calls.get(stage, 0) + 1
                self._walls[stage] = self._walls.get(stage, 0.0) + time.perf_counter() - wall

        return call

    def spent(self) -> dict[str, tuple[float, int, float]]:
        """CPU seconds, calls and wall seconds (those with inner stages) by stage; "rest": outside of all stages."""
        stages = {
            stage: (seconds, self._calls[stage], self._walls[stage]) for stage, seconds in self._spent.items()
        }
        if not stages:
            return {}
        rest = time.thread_time() - self._began - sum(self._spent.values())
        return stages | {"rest": (rest, 0, 0.0)}


def watch_stages(clock: StageClock) -> None:
    """Put timers around the stages of joiner and learner, for this process."""
    from aiokafka import conn
    from aiokafka.producer import message_accumulator

    from bandits.joiner import Joiner
    from streams.kafka import (
        joiner_partition,
        joiner_rounds,
        joiner_store,
        learner_partition,
        learner_rounds,
        publication,
        sender,
        source_codec,
    )
    from streams.store import Batch

    def watch(owner: Any, name: str, stage: str) -> None:
        setattr(owner, name, clock.timed(stage, getattr(owner, name)))

    watch(source_codec.SourceDecoder, "columns", "decode, validate, columns")
    watch(source_codec.SourceDecoder, "decode", "decode: what the compiled pass left")
    watch(Joiner, "join", "join")
    watch(joiner_partition, "encode_parts", "ledger: split and encode")
    watch(joiner_store, "encode_change", "joiner store: encode change")
    watch(joiner_store.JoinerStore, "batch", "joiner store: outbox and batch")
    watch(Joiner, "apply", "apply to the joiner")
    watch(joiner_rounds, "with_epoch", "ledger: put the epoch")
    watch(learner_rounds, "_fold", "learner: rest of folding")
    watch(learner_partition, "parse_record", "learner: decode ledger")
    watch(learner_rounds, "decode_run", "learner: decode ledger")
    watch(learner_rounds, "fold_run", "learner: look up and add")
    watch(publication, "encode_rows", "rows: encode")
    watch(learner_partition.LearnerPartition, "batch", "rows: into the store's batch")
    watch(Batch, "put_all", "rows: into the store's batch")
    watch(message_accumulator.MessageBatch, "get_data_buffer", "produce: record batches, their checksums")
    watch(conn.AIOKafkaConnection, "send", "produce: encode requests, hand them to the socket")
    _watch_row_batches(clock, sender)


def _watch_row_batches(clock: StageClock, sender: Any) -> None:
    """Appending rows to a record batch is a loop inside a coroutine: count its end, once a batch."""
    original = sender.AIOKafkaProducer.create_batch

    def create_batch(producer: Any) -> Any:
        batch = original(producer)
        batch.close = clock.timed("publish: close record batch", batch.close)
        return batch

    sender.AIOKafkaProducer.create_batch = create_batch

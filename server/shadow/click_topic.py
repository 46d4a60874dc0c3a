"""The clicks of a whole deployment, for shadow policies: every server hears those that others took.

Invariants: only clicks that arrive after the start are read, as earlier ones belong to requests of another process;
nothing is committed, and no other reader of the topic is disturbed; a broker that is gone is waited for.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from structlog.typing import FilteringBoundLogger

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.kafka.source_codec import click_decoder

_POLL_MS = 200
_RECORDS_PER_POLL = 5_000
_PAUSE_S = 1.0


class ClickTopic:
    """Reads the clicks topic in a thread of its own.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        topic: of the clicks.
        rule: which clicks are valid; others are the workers' to refuse.
        on_clicks: called with what came.
        on_passed_over: told of records that could not be taken, and are not read again.
        log: where it is told that the broker is away.
        security: what connections are made with.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topic: str,
        rule: JoinRule,
        on_clicks: Callable[[Sequence[events_pb2.Click]], None],
        on_passed_over: Callable[[int], None],
        log: FilteringBoundLogger,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._bootstrap = bootstrap
        self._security = security
        self._topic = topic
        self._rule = rule
        self._on_clicks = on_clicks
        self._on_passed_over = on_passed_over
        self._log = log
        self._stopping = threading.Event()
        self._following = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="freshet-shadow-clicks", daemon=True)

    def start(self) -> None:
        """Begin to read; returns at once."""
        self._thread.start()

    def wait_until_following(self, timeout_s: float) -> bool:
        """Wait until what is produced from now on will be heard."""
        return self._following.wait(timeout_s)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        decoder = click_decoder(self._rule)
        where: dict[TopicPartition, int] = {}
        while not self._stopping.is_set():
            try:
                self._follow(decoder, where)
            except KafkaError as error:
                self._log.warning("shadow policies: the broker does not answer", error=repr(error))
            except Exception:
                # To stop for good would leave estimates that count no rewards and look as if they did.
                self._log.exception("shadow policies: the clicks topic cannot be followed")
            self._stopping.wait(_PAUSE_S)

    def _follow(self, decoder: Any, where: dict[TopicPartition, int]) -> None:
        """Read on from where it was, or from the end; `where` is kept up to date."""
        consumer: Any = KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="freshet-server-shadows",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            request_timeout_ms=5_000,
            reconnect_backoff_max_ms=1_000,
            **self._security.keywords(),
        )
        try:
            tps = [TopicPartition(self._topic, n) for n in sorted(consumer.partitions_for_topic(self._topic) or ())]
            consumer.assign(tps)
            ends = consumer.end_offsets(tps) if tps else {}
            for tp in tps:
                consumer.seek(tp, where.setdefault(tp, ends[tp]))
            if tps:
                self._following.set()
            while tps and not self._stopping.is_set():
                for tp, records in consumer.poll(timeout_ms=_POLL_MS, max_records=_RECORDS_PER_POLL).items():
                    where[tp] = records[-1].offset + 1  # first: what cannot be taken is not read again for ever
                    self._take(decoder, records)
        finally:
            consumer.close()

    def _take(self, decoder: Any, records: Sequence[Any]) -> None:
        """Hand the clicks of some records on; where that fails, of each on its own, so that one costs no other."""
        try:
            decoded = decoder.decode(records, clock_ms=0)
            self._on_clicks([click for record in decoded.records for click in record.events])
        except Exception:
            if len(records) > 1:
                for record in records:
                    self._take(decoder, [record])
                return
            self._on_passed_over(1)
            self._log.exception("shadow policies: clicks were passed over", offset=records[0].offset)

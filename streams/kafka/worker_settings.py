"""What a worker must know."""

from dataclasses import dataclass, field
from pathlib import Path

from bandits.join_rule import JoinRule
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.topics import TopicNames


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker.

    Attributes:
        bootstrap: host:port of brokers, separated by commas.
        security: what connections to them are made with.
        prefix: first part of the names of ledger, parameters and dead letters, and of the others unless told.
        events_prefix: first part of the names of impressions, clicks and items; empty means `prefix`.
        group: consumer group of all workers that share the work; empty means "<prefix>.worker".
        name: of this worker, kept over restarts: partitions whose state is on its disk come back to it.
        data_dir: the stores, one for each partition; one worker at a time.
        graph: artifact of the graph; the same for all workers.
        graph_dir: the newest artifact placed here is learned under instead, from when it is; None = `graph` it is.
        graph_watch_s: seconds between looks into it; 0 = what operators ask for is found there, nothing else.
        backend: adds the facts: "auto", "numba", "numpy" or "cupy".
        gpu_crossover: facts of a micro-batch from which on a GPU adds them; 0 = "auto" looks for none.
        rule: the join rule; the same for all workers.
        item_tower: folder of `freshet train`: places items of the items topic that come with attributes alone; the
            same for all workers. None = such items are dead letters.
        static_member: a worker that comes back under its name within a session takes its partitions over at once;
            of two with one name the older one ends.
        accept_gap: go on where the log begins if the broker has deleted what was not yet read.
        session_timeout_ms: after this silence a worker is taken for dead and its partitions go to others.
        heartbeat_interval_ms: at most a third of it.
        rebalance_timeout_ms: how long others may take to join a rebalance.
        request_timeout_ms: how long the broker may take to answer.
        publish_interval_ms: shortest time between two publications of a partition's rows; a second while more than
            `max_batch_bytes` of the ledger waits.
        round_interval_ms: shortest time between the beginnings of two rounds while less than `max_batch_bytes`
            waits.
        max_batch_bytes: bytes of one round of all partitions, as far as single chunks allow.
        max_waiting_chunks: fetched chunks that may wait for a partition.
        stall_timeout_ms: a partition that stands still so long with work to do ends the process.
    """

    bootstrap: str
    graph: Path
    data_dir: Path
    security: KafkaSecurity = PLAINTEXT
    name: str = "worker"
    prefix: str = "freshet"
    events_prefix: str = ""
    group: str = ""
    graph_dir: Path | None = None
    graph_watch_s: float = 1.0
    backend: str = "auto"
    gpu_crossover: int = 0
    rule: JoinRule = field(default_factory=JoinRule)
    item_tower: Path | None = None
    static_member: bool = True
    accept_gap: bool = False
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 2_000
    rebalance_timeout_ms: int = 20_000
    request_timeout_ms: int = 15_000
    publish_interval_ms: int = 100
    round_interval_ms: int = 20
    max_batch_bytes: int = 4 << 20
    max_waiting_chunks: int = 8
    stall_timeout_ms: int = 120_000

    @property
    def names(self) -> TopicNames:
        """Names of the topics."""
        return TopicNames(self.prefix, self.events_prefix)

    @property
    def group_id(self) -> str:
        """The consumer group."""
        return self.group or f"{self.prefix}.worker"

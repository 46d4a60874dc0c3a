"""Which worker gets which partitions.

Invariants: partition p of impressions and of clicks go to one worker, because they are two sides of one join; every
worker gets its share of joiner and of learner partitions; the same workers get the same partitions again, because
their stores are on their disks.
"""

from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


def make_assignor(worker: str, together: Iterable[str]) -> type[AbstractPartitionAssignor]:
    """The assignor of a worker.

    Args:
        worker: a name that it keeps when it is restarted.
        together: topics whose equal partition numbers belong to one worker.
    """
    joined = frozenset(together)

    class Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
        name = "freshet"
        version = 0

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(cls.version, sorted(topics), worker.encode())

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            pass

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            topics = {topic for member in members.values() for topic in member.subscription}
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            names = {member: metadata.user_data for member, metadata in members.items()}
            shares = share_out(counts, names, joined)
            return {
                member: ConsumerProtocolMemberAssignment(cls.version, sorted(share.items()), b"")
                for member, share in shares.items()
            }

    return Assignor


def share_out(
    counts: Mapping[str, int], workers: Mapping[str, bytes], together: frozenset[str]
) -> dict[str, dict[str, list[int]]]:
    """Partitions of each member.

    Args:
        counts: number of partitions of each topic.
        workers: name of the worker behind each member.
        together: topics whose equal partition numbers go to one member.

    Returns:
        Partition numbers by member and topic.
    """
    order = sorted(workers, key=lambda member: (workers[member], member))
    shares: dict[str, dict[str, list[int]]] = {member: {} for member in order}
    for topic, count in sorted(counts.items()):
        # Counted from the other end, so that with few partitions no worker gets all of both kinds.
        turn = order if topic in together else order[::-1]
        for partition in range(count):
            shares[turn[partition % len(turn)]].setdefault(topic, []).append(partition)
    return shares

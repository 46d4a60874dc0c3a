"""Slates over a ScoreStream, packed and unpacked with NumPy: the ids of the candidates are sent once.

Run it against a server: `python docs/score_stream_example.py 127.0.0.1:50051 item-1 item-2 item-3`
"""

import queue
import sys
from collections.abc import Iterator, Sequence

import grpc
import numpy as np

from freshet.v1 import events_pb2, recommender_pb2, recommender_pb2_grpc


class SlateStream:
    """A stream that is asked for many slates at a time, all from the same candidates."""

    def __init__(self, channel: grpc.Channel, item_ids: Sequence[str]) -> None:
        self._item_ids = list(item_ids)
        self._new_ids = list(item_ids)  # sent with the first message; the server keeps them for the stream
        self._asked: queue.Queue[recommender_pb2.ScoreStreamRequest | None] = queue.Queue()
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        self._answers = stub.ScoreStream(iter(self._asked.get, None))

    def slates(
        self, users: Sequence[tuple[Sequence[int], Sequence[float]]], size: int
    ) -> Iterator[list[tuple[str, float]]]:
        """For each user, given as clusters and weights, the slate as (item id, propensity), top first."""
        n = len(self._item_ids)
        queries = recommender_pb2.PackedQueries(
            dictionary=self._new_ids,
            items=np.tile(np.arange(n, dtype="<i4"), len(users)).tobytes(),
            item_counts=np.full(len(users), n, "<i4").tobytes(),
            cluster_ids=np.concatenate([np.asarray(clusters, "<i4") for clusters, _ in users]).tobytes(),
            weights=np.concatenate([np.asarray(weights, "<f4") for _, weights in users]).tobytes(),
            cluster_counts=np.array([len(clusters) for clusters, _ in users], "<i4").tobytes(),
            slate_sizes=np.array([size], "<i4").tobytes(),  # one entry counts for all
            modes=bytes([events_pb2.MODE_UCB]),
        )
        self._asked.put(recommender_pb2.ScoreStreamRequest(queries=queries))
        answer = next(self._answers)
        if answer.HasField("error"):
            raise ValueError(answer.error.message)  # the message as a whole; the stream goes on
        self._new_ids = []
        for error in answer.slates.errors:
            sys.stderr.write(f"slate {error.slate}: {error.status.message}\n")  # the others are answered
        candidates = np.frombuffer(answer.slates.candidates, "<i4").tolist()
        propensities = np.frombuffer(answer.slates.propensities, "<f8").tolist()
        start = 0
        for count in np.frombuffer(answer.slates.item_counts, "<i4").tolist():
            part = slice(start, start + count)
            ids = [self._item_ids[at] for at in candidates[part]]
            yield list(zip(ids, propensities[part], strict=True))
            start += count

    def close(self) -> None:
        """End the stream."""
        self._asked.put(None)


if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stream = SlateStream(channel, sys.argv[2:])
        for slate in stream.slates([([0], [1.0]), ([0, 1], [0.5, 0.5])], size=2):
            sys.stdout.write(f"{slate}\n")
        stream.close()

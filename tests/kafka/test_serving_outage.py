"""`freshet serve --kafka` while its broker sleeps, dies and comes back."""

import time
from collections import Counter

import grpc
import pytest

from freshet.v1 import (
    feedback_pb2,
    feedback_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    recommender_pb2,
    recommender_pb2_grpc,
)
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import events, wait_for
from tests.kafka.test_real_logs import Programs
from tests.kafka.test_worker_equality import hash_of

DOCUMENTED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
CALLS, DEADLINE_S = 40, 3.0


class Caller:
    """Calls of one ranking service and of one operator."""

    def __init__(self, addresses):
        self._channels = [grpc.insecure_channel(addresses[name]) for name in ("serving", "operations")]
        self._recommender = recommender_pb2_grpc.RecommenderServiceStub(self._channels[0])
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(self._channels[0])
        self._operations = operations_pb2_grpc.OperationsServiceStub(self._channels[1])

    def score(self):
        context = {"cluster_ids": [0, 1], "weights": [0.5, 0.25]}
        request = recommender_pb2.ScoreRequest(item_ids=[f"item-{i}" for i in range(20)], cluster_weights=context)
        return self._recommender.Score(request, timeout=DEADLINE_S)

    def log(self, count, *, deadline_s=20.0):
        """Futures of a call with impressions and one with their clicks."""
        shown, clicked = events(count)
        requests = (
            (self._feedback.LogImpressions, feedback_pb2.LogImpressionsRequest(impressions=shown.impressions)),
            (self._feedback.LogClicks, feedback_pb2.LogClicksRequest(clicks=clicked.clicks)),
        )
        return [method.future(request, timeout=deadline_s) for method, request in requests]

    def status(self):
        return self._operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)

    def close(self):
        for channel in self._channels:
            channel.close()


def outage(caller):
    """Score and send feedback while no broker answers; what the feedback calls ended with."""
    before = caller.status()
    sent = [call for _ in range(CALLS // 2) for call in caller.log(30, deadline_s=DEADLINE_S)]
    scored, until_s = 0, time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        assert len(caller.score().items) == 20
        scored += 1
    codes = Counter(call.code() for call in sent)  # `code` waits for the end of the call
    wait_for(lambda: caller.status().staleness_ms > before.staleness_ms + 2_000)
    after = caller.status()
    assert after.state_hash == before.state_hash
    print(f"{scored} scores; feedback ended with {dict(codes)}")  # noqa: T201 - the figures of the run
    assert set(codes) <= DOCUMENTED
    return codes


def delivered(caller, count):
    """Whether both calls were answered; refused ones are sent again, as the documentation says."""
    codes = {call.code() for call in caller.log(count)}
    assert codes <= DOCUMENTED | {grpc.StatusCode.OK}
    return codes == {grpc.StatusCode.OK}


def learned_by_all(caller, cluster, count):
    """The server has the workers' state, which has every event once."""

    def totals():
        sums = cluster.learned().items.values()
        return sum(n for n, _ in sums), sum(s for _, s in sums)

    wait_for(lambda: totals() >= (count, count << 15), 40)
    wait_for(lambda: caller.status().state_hash == hash_of(cluster.graph, cluster.learned()), 40)
    assert totals() == (count, count << 15)
    wait_for(lambda: caller.status().staleness_ms < 2_000)


@pytest.mark.timeout(180)
def test_a_server_goes_on_while_its_broker_does_not(own_broker, tmp_path):
    """Scores are answered, feedback is refused as documented and staleness grows; then all is well without help."""
    cluster = Cluster(own_broker.bootstrap, "serving", tmp_path, source_partitions=2, item_partitions=2)
    programs, caller = Programs(tmp_path), None
    try:
        cluster.start(0)
        caller = Caller(programs.serve("server", own_broker.bootstrap, cluster.prefix))
        wait_for(lambda: delivered(caller, 50), 60)
        wait_for(lambda: cluster.learned().items, 40)
        learned_by_all(caller, cluster, 50)
        own_broker.pause()
        codes = outage(caller)
        assert codes[grpc.StatusCode.DEADLINE_EXCEEDED]
        own_broker.resume()
        wait_for(lambda: delivered(caller, 70), 60)
        learned_by_all(caller, cluster, 70)
        own_broker.kill9()
        outage(caller)
        own_broker.start()
        wait_for(lambda: delivered(caller, 90), 60)
        learned_by_all(caller, cluster, 90)
    finally:
        if caller is not None:
            caller.close()
        own_broker.resume()
        programs.stop()
        cluster.stop()

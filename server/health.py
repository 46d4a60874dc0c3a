"""grpc.health.v1: what a load balancer asks before it sends calls.

Invariants: the recommender is SERVING once a graph is served, and goes on when learning has stopped (I10);
feedback is SERVING only while the loop takes it; once stopping, nothing is SERVING again.
"""

import threading

from grpc_health.v1 import health, health_pb2

from freshet.v1 import feedback_pb2, operations_pb2, recommender_pb2

RECOMMENDER = recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"].full_name
FEEDBACK = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name
OPERATIONS = operations_pb2.DESCRIPTOR.services_by_name["OperationsService"].full_name
OVERALL = ""


class Health:
    """The state of each service, told to all listeners.

    Attributes:
        servicer: answers the health checks.
    """

    def __init__(self) -> None:
        self.servicer = health.HealthServicer()
        self._lock = threading.Lock()
        self._ready = False
        self._failed: str | None = None
        self._stopping = False
        self._tell()

    @property
    def ready(self) -> bool:
        """True while scores are served."""
        return self._ready and not self._stopping

    @property
    def failed(self) -> str | None:
        """Why learning has stopped, if it has."""
        return self._failed

    def update(self, *, ready: bool, failed: str | None) -> None:
        """Take over what was seen; a loop that has failed stays so."""
        with self._lock:
            seen = (ready, self._failed or failed)
            if seen != (self._ready, self._failed):
                self._ready, self._failed = seen
                self._tell()

    def loop_failed(self, reason: str) -> None:
        """Feedback is no longer taken."""
        self.update(ready=self._ready, failed=reason)

    def stopping(self) -> None:
        """Nothing is served any more: callers go elsewhere while calls in flight are answered."""
        with self._lock:
            self._stopping = True
            self._tell()

    def _tell(self) -> None:
        ready = self.ready
        feedback = not self._failed and not self._stopping
        for service, serving in (
            (OVERALL, ready),
            (RECOMMENDER, ready),
            (FEEDBACK, feedback and self._ready),
            (OPERATIONS, not self._stopping),
        ):
            status = (
                health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            self.servicer.set(service, status)

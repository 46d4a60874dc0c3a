"""A gRPC server on one address: its threads, its bounds, health and reflection beside the services."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from structlog.typing import FilteringBoundLogger

from server.health import Health
from server.interceptor import CallInterceptor, ServiceRules, ShortWay
from server.metrics import Metrics
from server.open_streams import OpenStreams

# Threads beyond the places of the gates, so that refusals and health checks are answered when all places are taken.
SPARE_THREADS = 4


class Listener:
    """One address with its services.

    Args:
        address: host:port; port 0 = any.
        rules: how the calls of each service are let in, by its full name.
        threads: that calls run in, unless their service has its own.
        max_concurrent: calls at once, waiting ones included.
        max_message_bytes: largest request.
        metrics: where calls are counted.
        log: where unexpected errors go.
        shared_port: True if other processes of this server listen there too; who starts them sees to it that they
            are of this server.
        credentials: what connections are encrypted with; None = they are not.

    Attributes:
        server: for the services to be added to.
        streams: those that are open.
        short_ways: by path of the method, what may answer a request from its bytes; to be filled before the start.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        rules: Mapping[str, ServiceRules],
        threads: int,
        max_concurrent: int,
        max_message_bytes: int,
        metrics: Metrics,
        log: FilteringBoundLogger,
        shared_port: bool = False,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads + SPARE_THREADS, thread_name_prefix="freshet-call")
        self._rules = rules
        self.streams = OpenStreams()
        self.short_ways: dict[str, ShortWay] = {}
        self.server = grpc.server(
            self._pool,
            interceptors=[
                CallInterceptor(
                    rules=rules, short_ways=self.short_ways, streams=self.streams, metrics=metrics, log=log
                )
            ],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),  # replies are bounded by what they may hold
                ("grpc.so_reuseport", int(shared_port)),  # two servers must not share a port unnoticed
            ],
            maximum_concurrent_rpcs=max_concurrent,
        )
        try:
            if credentials is None:
                port = self.server.add_insecure_port(address)
            else:
                port = self.server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise OSError(f"cannot listen on {address}: it is taken, or not an address of this machine")
        self.address = f"{address.rpartition(':')[0]}:{port}"

    def start(self, health: Health, services: Sequence[str]) -> None:
        """Begin to answer; the services have been added to `server`."""
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self.server)
        shown = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, self.server)
        self.server.start()

    def begin_stop(self, grace_s: float) -> threading.Event:
        """Take no new calls, answer those in flight, cancel them after `grace_s`; set once none is left."""
        stopping = self.server.stop(grace_s)
        self.streams.stop()
        return stopping

    def close(self) -> None:
        """Let the threads go, once nothing is in flight: gRPC dies of a pool that refuses a call."""
        for rules in self._rules.values():
            for pool in (rules.pool, rules.stream_pool):
                if pool is not None:
                    pool.shutdown(wait=False)
        self._pool.shutdown(wait=False)

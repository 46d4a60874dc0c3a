"""Sends a recorded log to a running server over gRPC, as a front end would, through its restarts.

Invariant: a batch is sent until it is accepted. What had been accepted before a connection broke counts once, so
sending again is safe.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from freshet.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.channels import ClientTls, open_channel
from streams.logs import EventLog

Reply = TypeVar("Reply")

_PATIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
_PAUSE_S = 0.05
_CALL_DEADLINE_S = 10.0
_CANDIDATES = 100


class ServerGone(RuntimeError):
    """The server did not come back within the time allowed."""


@dataclass
class Sent:
    """What was sent.

    Attributes:
        rows: shown items accepted.
        clicks: clicks accepted.
        scored: Score calls answered.
        retries: calls that had to be sent again.
        refused: elements the server refused for what they are, with the first reason.
    """

    rows: int = 0
    clicks: int = 0
    scored: int = 0
    retries: int = 0
    refused: list[str] = field(default_factory=list)


def send_log(
    address: str,
    log: EventLog,
    *,
    batch_rows: int,
    patience_s: float,
    progress: Callable[[int], None],
    first_row: int = 0,
    tls: ClientTls | None = None,
) -> Sent:
    """Send a log; times are left to the server, since a recorded log is older than any attribution window.

    Args:
        address: host:port of RecommenderService and FeedbackService.
        log: the log.
        batch_rows: rows of one LogImpressions call; clicks on them follow in one LogClicks call, then one Score.
        patience_s: how long a call is repeated while the server is away or full.
        progress: told the number of rows done.
        first_row: where to begin.
        tls: what to connect with; None = plain text.

    Raises:
        ServerGone: the server stayed away longer than `patience_s`.
        grpc.RpcError: the server answered with a status that trying again does not help.
    """
    sent = Sent()
    with open_channel(address, tls, options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        recommender = recommender_pb2_grpc.RecommenderServiceStub(channel)
        for start in range(first_row, len(log), batch_rows):
            end = min(start + batch_rows, len(log))
            shown, clicks = _impressions(log, start, end), _clicks(log, start, end)
            accepted = _patiently(feedback.LogImpressions, shown, sent, patience_s)
            sent.rows += accepted.accepted
            _note_refused(accepted.refused, sent)
            if clicks.clicks:
                taken = _patiently(feedback.LogClicks, clicks, sent, patience_s)
                sent.clicks += taken.accepted
                _note_refused(taken.refused, sent)
            _patiently(recommender.Score, _score_request(log, start, end), sent, patience_s)
            sent.scored += 1
            progress(end)
    return sent


def _patiently(call: Callable[..., Reply], request: object, sent: Sent, patience_s: float) -> Reply:
    give_up = time.monotonic() + patience_s
    while True:
        try:
            return call(request, timeout=_CALL_DEADLINE_S)
        except grpc.RpcError as error:
            if error.code() not in _PATIENT:
                raise
            if time.monotonic() > give_up:
                raise ServerGone(f"no answer within {patience_s:g} s: {error.details()}") from error
            sent.retries += 1
            time.sleep(_PAUSE_S)


def _note_refused(refused: Iterable[feedback_pb2.RefusedElement], sent: Sent) -> None:
    sent.refused += [element.status.message for element in refused]


def _impressions(log: EventLog, start: int, end: int) -> feedback_pb2.LogImpressionsRequest:
    slates = [
        events_pb2.Impression(
            request_id=log.request_ids[row],
            context=_context(log, row),
            items=[
                events_pb2.ShownItem(
                    item_id=log.item_ids[row],
                    position=int(log.position[row]),
                    propensity=float(log.propensity[row]),
                )
            ],
        )
        for row in range(start, end)
    ]
    return feedback_pb2.LogImpressionsRequest(impressions=slates)


def _clicks(log: EventLog, start: int, end: int) -> feedback_pb2.LogClicksRequest:
    rows = [row for row in range(start, end) if log.clicked[row] > 0]
    return feedback_pb2.LogClicksRequest(
        clicks=[
            events_pb2.Click(
                request_id=log.request_ids[row], item_id=log.item_ids[row], reward=float(log.clicked[row])
            )
            for row in rows
        ]
    )


def _score_request(log: EventLog, start: int, end: int) -> recommender_pb2.ScoreRequest:
    """A slate for the last user, out of what was just shown."""
    candidates = list(dict.fromkeys(log.item_ids[start:end]))[:_CANDIDATES]
    return recommender_pb2.ScoreRequest(
        cluster_weights=_context(log, end - 1), item_ids=candidates, slate_size=min(10, len(candidates))
    )


def _context(log: EventLog, row: int) -> events_pb2.ClusterWeights:
    clusters, weights = log.context_of(row)
    return events_pb2.ClusterWeights(cluster_ids=clusters.tolist(), weights=weights.tolist())

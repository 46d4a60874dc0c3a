"""RecommenderService: slates from the snapshot.

Invariants: a reply is computed from one graph and one position, which it states (I9); the same seed and position
give the same slate (I12); nothing but a `log_impression` waits for anything.
"""

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import grpc
import numpy as np

from bandits.context import Context
from bandits.graph import Int32
from bandits.life_cycle import Bounds
from freshet.v1 import events_pb2, recommender_pb2, recommender_pb2_grpc
from server.durable import DurableFeedback
from server.errors import Refused, no_graph
from server.gate import Gate
from server.life_cycle import Exploration
from server.metrics import Metrics
from server.packed.dictionary import Dictionary
from server.replies import AnyReply, context_message, impression_of, scored_items
from server.requests import (
    MODE_NAMES,
    MODE_NUMBERS,
    AnyRequest,
    SlateQuery,
    check_explain,
    check_recommend,
    check_score,
    check_score_batch,
    resolve_user,
)
from server.rules import NamedRules, RulesInForce
from server.scoring import FilledSlate, explain
from server.snapshot import Parameters, Snapshot

if TYPE_CHECKING:
    from server.packed.packed_slates import PackedSlates
    from server.shadow.shadows import Shadows

_SlateRequest = recommender_pb2.ScoreRequest | recommender_pb2.RecommendRequest


@dataclass(frozen=True)
class ContextRules:
    """How a user is resolved: clusters of an embedding, and the temperature of their softmax."""

    k: int
    temperature: float


class RecommenderService(recommender_pb2_grpc.RecommenderServiceServicer):
    """Scores candidates and fills slates.

    Args:
        snapshot: the parameters.
        rules: the scoring rules in force.
        context_rules: how users are resolved.
        default_mode: name of the mode of requests that name none.
        durable: records impressions.
        recording: places for calls that wait for their impression, so that a slow disk cannot hold all threads.
        metrics: where slates are counted.
        clock_ms: Unix milliseconds.
        packed: makes what fills packed slates.
        exploration: bounds it; None = nothing does.
        shadows: look at some answers; None = nobody does.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        rules: RulesInForce,
        context_rules: ContextRules,
        default_mode: str,
        durable: DurableFeedback,
        recording: Gate,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        packed: "Callable[[], PackedSlates]",
        exploration: Exploration | None = None,
        shadows: "Shadows | None" = None,
    ) -> None:
        self._shadows = shadows
        self._packed = packed
        self._dictionaries: WeakKeyDictionary[grpc.ServicerContext, Dictionary] = WeakKeyDictionary()
        self._snapshot = snapshot
        self._rules = rules
        self._context_rules = context_rules
        self._default_mode = default_mode
        self._durable = durable
        self._recording = recording
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._exploration = exploration

    def Score(  # noqa: N802 - the name of the RPC
        self, request: recommender_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.ScoreResponse:
        """Rank the caller's candidates."""
        reply = self._score(request)
        if request.log_impression and reply.items:
            self._record([self._impression(reply, request)], context)
        return reply

    def Recommend(  # noqa: N802 - the name of the RPC
        self, request: recommender_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.RecommendResponse:
        """Rank the items that the graph holds around the user's clusters."""
        query = check_recommend(request)
        parameters = self._parameters()
        user = self._resolve(request, parameters)
        reply = recommender_pb2.RecommendResponse()
        if not self._fill_around(reply, query, parameters, user):
            candidates = parameters.graph.items_around(user.cluster_ids)
            reply.candidates = len(candidates)
            self._fill(reply, query, parameters, user, candidates)
        if request.log_impression and reply.items:
            self._record([self._impression(reply, request)], context)
        return reply

    def ScoreBatch(  # noqa: N802 - the name of the RPC
        self, request: recommender_pb2.ScoreBatchRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.ScoreBatchResponse:
        """Many independent Scores, each answered as the unary call would be."""
        check_score_batch(request)
        results = []
        recorded: list[tuple[recommender_pb2.ScoreBatchResult, events_pb2.Impression]] = []
        for element in request.requests:
            try:
                reply = self._score(element)
            except Refused as refused:
                results.append(recommender_pb2.ScoreBatchResult(error=refused.status()))
                continue
            results.append(recommender_pb2.ScoreBatchResult(response=reply))
            if element.log_impression and reply.items:
                recorded.append((results[-1], self._impression(reply, element)))
        if recorded:
            try:
                self._record([impression for _, impression in recorded], context)
            except Refused as refused:
                for result, _ in recorded:
                    result.error.CopyFrom(refused.status())
        return recommender_pb2.ScoreBatchResponse(results=results)

    def ScorePacked(  # noqa: N802 - the name of the RPC
        self, request: recommender_pb2.ScorePackedRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.ScorePackedResponse:
        """Many slates as packed columns."""
        return recommender_pb2.ScorePackedResponse(slates=self._packed_slates(request, Dictionary()))

    def ScoreStream(  # type: ignore[override]  # noqa: N802 - called for each message, see CallInterceptor
        self, request: recommender_pb2.ScoreStreamRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.ScoreStreamResponse:
        """One message of a stream of `ScorePacked`; the dictionary lasts as long as the stream."""
        started, code = time.perf_counter(), grpc.StatusCode.OK
        dictionary = self._dictionaries.setdefault(context, Dictionary())
        try:
            return recommender_pb2.ScoreStreamResponse(slates=self._packed_slates(request, dictionary))
        except Refused as refused:
            code = refused.code
            self._metrics.refused.labels(reason=refused.reason).inc()
            return recommender_pb2.ScoreStreamResponse(error=refused.status())
        finally:
            self._metrics.answered("ScoreStream", code.name, time.perf_counter() - started)

    def _packed_slates(
        self,
        request: recommender_pb2.ScorePackedRequest | recommender_pb2.ScoreStreamRequest,
        dictionary: Dictionary,
    ) -> recommender_pb2.PackedSlates:
        return self._packed().fill(request.queries, dictionary)

    def Explain(  # noqa: N802 - the name of the RPC
        self, request: recommender_pb2.ExplainRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.ExplainResponse:
        """Show how the score of one item comes about."""
        check_explain(request)
        parameters = self._parameters()
        user = self._resolve(request, parameters)
        number = parameters.graph.lookup([request.item_id])
        if number[0] < 0:
            raise Refused(grpc.StatusCode.NOT_FOUND, "item_id: the graph does not know it", reason="unknown_item")
        mode = self._mode(request.mode)
        rules = self._rules.current
        reading = parameters.gather(number, user)
        sums = reading.sums
        seed = request.seed if request.HasField("seed") else secrets.randbits(64)
        told = explain(sums, mode=mode, seed=seed, policy=rules.slate.policy)
        state = ""
        if self._exploration is not None:
            state, ranked = self._exploration.explained(
                parameters.graph, number, user, sums, mode=mode, surface=request.surface, told=told
            )
            told = replace(told, score=ranked)
        in_flight = np.zeros(len(user.cluster_ids)) if reading.in_flight is None else reading.in_flight[0]
        columns = (user.cluster_ids, user.weights, sums.edge[0], sums.a[0], sums.d[0], sums.b[0])
        parts = (told.edge_mean, told.edge_variance, in_flight)
        rows = zip(*(column.tolist() for column in (*columns, *parts)), strict=True)
        names = ("cluster_id", "weight", "edge", "a", "d", "b", "mean", "variance", "in_flight")
        return recommender_pb2.ExplainResponse(
            item_id=request.item_id,
            terms=[recommender_pb2.EdgeTerm(**dict(zip(names, row, strict=True))) for row in rows],
            mean=told.mean,
            width=told.width,
            score=told.score,
            n=int(sums.n[0]),
            s=float(sums.s[0]),
            policy=rules.names[mode],
            graph_version=parameters.graph.version,
            parameters_position=[reading.position],
            mode=MODE_NUMBERS[mode],
            exploration=state,
        )

    def _score(self, request: recommender_pb2.ScoreRequest) -> recommender_pb2.ScoreResponse:
        query = check_score(request)
        parameters = self._parameters()
        user = self._resolve(request, parameters)
        numbers = parameters.graph.lookup(query.item_ids)
        known = numbers >= 0
        reply = recommender_pb2.ScoreResponse()
        if not known.all():
            unknown = [query.item_ids[at] for at in np.flatnonzero(~known).tolist()]
            self._metrics.unknown_items.inc(len(unknown))
            reply.unknown_item_ids.extend(unknown)
            numbers = numbers[known]
        self._fill(reply, query, parameters, user, numbers)
        return reply

    def _fill(
        self,
        reply: AnyReply,
        query: SlateQuery,
        parameters: Parameters,
        user: Context,
        items: Int32,
    ) -> None:
        """Score the candidates that are not excluded, and state in the reply what it was computed from."""
        if query.excluded:
            items = items[~np.isin(items, parameters.graph.lookup(query.excluded))]
        mode = self._mode(query.mode)
        seed = secrets.randbits(64) if query.seed is None else query.seed
        rules, bounds = self._rules.current, None
        if self._exploration is None:
            slate, position = parameters.fill(
                items, user, mode=mode, slate_size=query.slate_size, seed=seed, rules=rules.slate
            )
        else:
            slate, position, mode, bounds = self._exploration.fill(
                parameters,
                items,
                user,
                mode=mode,
                surface=query.request.surface,
                slate_size=query.slate_size,
                seed=seed,
                rules=rules.slate,
            )
        self._tell(
            reply,
            query,
            parameters,
            user,
            items,
            slate,
            rules,
            mode=mode,
            seed=seed,
            position=position,
            bounds=bounds,
        )

    def _fill_around(
        self, reply: recommender_pb2.RecommendResponse, query: SlateQuery, parameters: Parameters, user: Context
    ) -> bool:
        """Find candidates and score them in one pass over their edges; False where that cannot be."""
        exploration, surface = self._exploration, query.request.surface
        if query.excluded:
            return False
        if exploration is not None and not exploration.passes(parameters.graph, surface, around=user.cluster_ids):
            return False
        mode, rules = self._mode(query.mode), self._rules.current
        seed = secrets.randbits(64) if query.seed is None else query.seed
        found = parameters.fill_around(user, mode=mode, slate_size=query.slate_size, seed=seed, rules=rules.slate)
        if found is None:
            return False
        items, slate, reply.candidates, position = found
        if exploration is not None:
            exploration.filled(surface, mode, len(items), int(np.count_nonzero(slate.explored)))
        self._tell(reply, query, parameters, user, items, slate, rules, mode=mode, seed=seed, position=position)
        return True

    def _tell(
        self,
        reply: AnyReply,
        query: SlateQuery,
        parameters: Parameters,
        user: Context,
        items: Int32,
        slate: FilledSlate,
        rules: NamedRules,
        *,
        mode: str,
        seed: int,
        position: int,
        bounds: Bounds | None = None,
    ) -> None:
        """State in a reply the slate, of which `items` are the candidates, and what it was computed from."""
        reply.request_id = query.request.request_id or uuid.uuid4().hex
        reply.items.extend(scored_items(parameters.graph, items, slate))
        reply.policy = rules.names[mode]
        reply.graph_version = parameters.graph.version
        reply.parameters_position.append(position)
        reply.context.CopyFrom(context_message(user))
        reply.mode = MODE_NUMBERS[mode]
        reply.seed = seed
        self._metrics.slate(
            mode=mode,
            surface=query.request.surface,
            explored=int(np.count_nonzero(slate.explored)),
            propensity=slate.propensity,
        )
        if self._shadows is not None:
            self._shadows.offer(parameters, user, query, reply, bounds)

    def _parameters(self) -> Parameters:
        parameters = self._snapshot.current
        if parameters is None:
            raise no_graph()
        return parameters

    def _resolve(
        self,
        request: AnyRequest,
        parameters: Parameters,
    ) -> Context:
        rules = self._context_rules
        resolver = parameters.resolver(k=rules.k, temperature=rules.temperature) if parameters.compiles else None
        return resolve_user(request, parameters.graph, k=rules.k, temperature=rules.temperature, resolver=resolver)

    def _mode(self, number: int) -> str:
        return MODE_NAMES[number] if number else self._default_mode

    def _impression(self, reply: AnyReply, request: _SlateRequest) -> events_pb2.Impression:
        user_key, surface = request.user_key, request.surface
        return impression_of(reply, user_key=user_key, surface=surface, occurred_at_ms=self._clock_ms())

    def _record(self, impressions: list[events_pb2.Impression], context: grpc.ServicerContext) -> None:
        with self._recording.enter():
            self._durable.impressions(events_pb2.ImpressionBatch(impressions=impressions), context)
        self._metrics.feedback("impression", accepted=len(impressions), refused=0)

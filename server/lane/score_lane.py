"""The short way of Score: a request's bytes to the bytes of its answer, in two compiled calls.

Invariants: what it answers is what `RecommenderService.Score` answers to the same request at the same parameters;
what it does not take, it hands over whole before anything has happened. It records no impressions.
"""

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bandits.context import Context
from bandits.draws import COARSE_QUANTILES
from bandits.slates_numba import CompiledPolicy, explored_tables
from freshet.v1 import recommender_pb2
from server.lane.read_score import (
    CANDIDATES,
    CLUSTERS,
    GIVEN,
    HAS_SEED,
    MODE,
    READ,
    REQUEST_AT,
    REQUEST_SIZE,
    SEED_HIGH,
    SEED_LOW,
    SLATE_SIZE,
    SURFACE_AT,
    SURFACE_SIZE,
    UNKNOWN,
    read_score,
)
from server.lane.write_score import room_for, write_score
from server.limits import MAX_CANDIDATES
from server.metrics import Metrics
from server.requests import MODE_NAMES, MODE_NUMBERS
from server.rules import NamedRules, RulesInForce
from server.snapshot import Parameters, Snapshot
from streams.limits import MAX_CLUSTERS_PER_CONTEXT

if TYPE_CHECKING:
    from server.life_cycle import Exploration
    from server.shadow.shadows import Shadows

_DRAWN_BYTES = 24  # a seed and a request id
_CALLS_A_DRAW = 64
_MOST_KEPT_BYTES = 1 << 20  # of the room for answers that a thread keeps


@dataclass(frozen=True, eq=False)
class _Answer:
    """What all answers of one mode under one graph and one set of rules have in common."""

    mode: str
    number: int
    policy: CompiledPolicy
    kind: int
    tail: npt.NDArray[np.uint8]


class Room(threading.local):
    """Memory of one thread, used again for each call."""

    def __init__(self) -> None:
        self.read = np.zeros(len(READ), np.int64)
        self.items = np.empty(MAX_CANDIDATES, np.int32)
        self.clusters = np.empty(MAX_CLUSTERS_PER_CONTEXT, np.int32)
        self.weights = np.empty(MAX_CLUSTERS_PER_CONTEXT, np.float64)
        self.unknown = np.empty(2 * MAX_CANDIDATES, np.int64)
        self.out = np.empty(1 << 14, np.uint8)
        self._drawn, self._drawn_at = b"", 0

    def draw(self) -> bytes:
        """Random bytes for one call; the system is asked for many at a time, as that lets go of the GIL."""
        at = self._drawn_at
        if at == len(self._drawn):
            self._drawn, at = os.urandom(_DRAWN_BYTES * _CALLS_A_DRAW), 0
        self._drawn_at = at + _DRAWN_BYTES
        return self._drawn[at : at + _DRAWN_BYTES]


class ScoreLane:
    """Answers Score where it can.

    Args:
        snapshot: the parameters.
        rules: the scoring rules in force.
        k: clusters of a user who comes as an embedding.
        temperature: of their softmax.
        default_mode: name of the mode of requests that name none.
        metrics: where slates are counted.
        shadows: look at some answers; None = nobody does.
        exploration: bounds it; what it binds goes the long way. None = nothing does.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        rules: RulesInForce,
        k: int,
        temperature: float,
        default_mode: str,
        metrics: Metrics,
        shadows: "Shadows | None" = None,
        exploration: "Exploration | None" = None,
    ) -> None:
        self._exploration = exploration
        self._snapshot = snapshot
        self._rules = rules
        self._k = k
        self._temperature = temperature
        self._default_mode = MODE_NUMBERS[default_mode]
        self._metrics = metrics
        self._shadows = shadows
        self._room = Room()
        self._answers: tuple[NamedRules | None, str, dict[int, _Answer]] = (None, "", {})

    def score(self, data: bytes) -> bytes | None:
        """The answer to a request, or None where the long way is to answer it."""
        parameters, rules, room = self._snapshot.current, self._rules.current, self._room
        if parameters is None or not parameters.compiles or not data:
            return None
        graph = parameters.lane_graph()
        request = np.frombuffer(data, np.uint8)
        if not read_score(
            request,
            graph.index,
            graph.centroids,
            graph.largest,
            self._k,
            self._temperature,
            room.read,
            room.items,
            room.clusters,
            room.weights,
            room.unknown,
        ):
            return None
        read = room.read.tolist()
        answer = self._answers_of(rules, parameters).get(read[MODE] or self._default_mode)
        n = read[CANDIDATES]
        if answer is None or n == 0:
            return None
        surface = data[read[SURFACE_AT] : read[SURFACE_AT] + read[SURFACE_SIZE]].decode()
        exploration = self._exploration
        if exploration is not None and not exploration.passes(parameters.graph, surface, items=room.items[:n]):
            return None
        policy = answer.policy
        size = min(read[SLATE_SIZE] or read[GIVEN], n)
        head, band = explored_tables(n, size, policy.explore_share)
        drawn = room.draw()
        seed = read[SEED_HIGH] << 32 | read[SEED_LOW] if read[HAS_SEED] else int.from_bytes(drawn[:8], "little")
        if read[REQUEST_SIZE]:
            request_id = request[read[REQUEST_AT] : read[REQUEST_AT] + read[REQUEST_SIZE]]
        else:
            request_id = np.frombuffer(drawn[8:].hex().encode(), np.uint8)
        out = self._out(room_for(size, len(data), len(answer.tail)))
        redraws = rules.slate.draws_for(n)
        counts = self._metrics.propensity.counts()
        with parameters.lock:
            slates = parameters.compiled_slates()
            length, total, explored = write_score(
                request,
                graph.index,
                slates.view,
                policy.row,
                COARSE_QUANTILES,
                head,
                band,
                room.read,
                room.items,
                room.clusters,
                room.weights,
                room.unknown,
                request_id,
                answer.tail,
                size,
                min(policy.top_m, n),
                policy.explore_share,
                redraws,
                answer.number,
                answer.kind,
                np.uint64(seed),
                parameters.position,
                self._metrics.propensity.bounds,
                counts,
                out,
            )
        if exploration is not None:
            exploration.filled(surface, answer.mode, size, explored)
        self._metrics.counted_slate(
            mode=answer.mode, surface=surface, items=size, explored=explored, counts=counts, total=total
        )
        if read[UNKNOWN]:
            self._metrics.unknown_items.inc(read[UNKNOWN])
        told = out[:length].tobytes()
        if self._shadows is not None and self._shadows.chooses(request_id):
            user = Context(room.clusters[: read[CLUSTERS]].copy(), room.weights[: read[CLUSTERS]].copy())
            self._shadows.take(parameters, room.items[:n].copy(), user, told, request_id=bytes(request_id).decode())
        return told

    def _out(self, size: int) -> npt.NDArray[np.uint8]:
        """Room for an answer."""
        room = self._room
        if size > len(room.out):
            made = np.empty(size, np.uint8)
            if size > _MOST_KEPT_BYTES:
                return made
            room.out = made
        return room.out

    def _answers_of(self, rules: NamedRules, parameters: Parameters) -> dict[int, _Answer]:
        """By number of the mode; the same rules and graph give the same answers' tails again."""
        version = parameters.graph.version
        held_rules, held_version, answers = self._answers
        if held_rules is not rules or held_version != version:
            answers = {
                number: _answer(mode, number, rules, version)
                for number, mode in MODE_NAMES.items()
                if mode in rules.slate.compiled
            }
            self._answers = rules, version, answers
        return answers


def _answer(mode: str, number: int, rules: NamedRules, version: str) -> _Answer:
    policy = rules.slate.compiled[mode]
    exact, estimated = recommender_pb2.PROPENSITY_KIND_EXACT, recommender_pb2.PROPENSITY_KIND_ESTIMATED
    tail = recommender_pb2.ScoreResponse(policy=rules.names[mode], graph_version=version).SerializeToString()
    kind = estimated if policy.estimated else exact
    return _Answer(mode, number, policy, kind, np.frombuffer(tail, np.uint8))

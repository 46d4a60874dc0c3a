"""Requests to score, checked by field path and turned into plain values.

Invariants: whatever leaves this module is within its bounds, finite and distinct; ids are checked by operations on
the whole list, never by a Python loop per id, unless one is already known to be bad.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.context import Context, InvalidContext, check_cluster_weights, resolve_embedding
from bandits.graph import Graph
from freshet.v1 import events_pb2, recommender_pb2
from server import limits
from server.errors import invalid_field

# Modes by number, as bandits.policies names them.
MODE_NAMES: dict[int, str] = {
    events_pb2.MODE_EXPLOIT: "exploit",
    events_pb2.MODE_UCB: "ucb",
    events_pb2.MODE_THOMPSON: "thompson",
    events_pb2.MODE_BETA_THOMPSON: "beta_thompson",
    events_pb2.MODE_EPSILON_GREEDY: "epsilon_greedy",
    events_pb2.MODE_UNIFORM: "uniform",
    events_pb2.MODE_RANDOMIZED_UCB: "randomized_ucb",
}
MODE_NUMBERS: dict[str, "events_pb2.Mode.ValueType"] = {
    name: events_pb2.Mode.Value(f"MODE_{name.upper()}") for name in MODE_NAMES.values()
}

Resolver = Callable[[npt.NDArray[np.float32]], Context | None]
AnyRequest = recommender_pb2.ScoreRequest | recommender_pb2.RecommendRequest | recommender_pb2.ExplainRequest


@dataclass(frozen=True)
class SlateQuery:
    """A checked request for a slate; the user is still to be resolved against a graph.

    Attributes:
        request: the message, for the user's embedding or clusters.
        item_ids: the candidates; empty where the graph offers them.
        slate_size: 1 or more.
        mode: number of the mode, 0 = the server's default.
        seed: None where the server draws it.
        excluded: ids never to be returned.
    """

    request: recommender_pb2.ScoreRequest | recommender_pb2.RecommendRequest
    item_ids: list[str]
    slate_size: int
    mode: int
    seed: int | None
    excluded: list[str]


def check_score(request: recommender_pb2.ScoreRequest) -> SlateQuery:
    """Check a ScoreRequest.

    Raises:
        Refused: INVALID_ARGUMENT naming the first bad field.
    """
    item_ids = list(request.item_ids)
    check_ids("item_ids", item_ids, largest_count=limits.MAX_CANDIDATES)
    if request.slate_size > limits.MAX_CANDIDATES:
        raise invalid_field("slate_size", f"0 (all) to {limits.MAX_CANDIDATES}", request.slate_size)
    return _check_common(request, item_ids, request.slate_size or len(item_ids))


def check_recommend(request: recommender_pb2.RecommendRequest) -> SlateQuery:
    """Check a RecommendRequest.

    Raises:
        Refused: INVALID_ARGUMENT naming the first bad field.
    """
    if not 1 <= request.slate_size <= limits.MAX_SLATE:
        raise invalid_field("slate_size", f"1 to {limits.MAX_SLATE}", request.slate_size)
    return _check_common(request, [], request.slate_size)


def check_explain(request: recommender_pb2.ExplainRequest) -> None:
    """Check an ExplainRequest.

    Raises:
        Refused: INVALID_ARGUMENT naming the first bad field.
    """
    check_text("item_id", request.item_id, smallest=1)
    check_text("surface", request.surface, largest=limits.MAX_SURFACE_BYTES)
    _check_mode(request.mode)
    _check_user_given(request)


def check_score_batch(request: recommender_pb2.ScoreBatchRequest) -> None:
    """Check what concerns a ScoreBatch as a whole; its elements are answered one by one.

    Raises:
        Refused: INVALID_ARGUMENT naming the first bad field.
    """
    count = len(request.requests)
    if not 1 <= count <= limits.MAX_BATCH_REQUESTS:
        raise invalid_field("requests", f"1 to {limits.MAX_BATCH_REQUESTS} requests", f"{count} requests")
    candidates = sum(len(element.item_ids) for element in request.requests)
    if candidates > limits.MAX_BATCH_CANDIDATES:
        expected = f"at most {limits.MAX_BATCH_CANDIDATES} item_ids of all requests together"
        raise invalid_field("requests", expected, f"{candidates} item_ids")


def resolve_user(
    request: AnyRequest, graph: Graph, *, k: int, temperature: float, resolver: Resolver | None = None
) -> Context:
    """The user of a request as weights over the clusters of a graph.

    Args:
        request: the message.
        graph: the graph.
        k: clusters of a user who comes as an embedding.
        temperature: of their softmax.
        resolver: resolves an embedding faster, or gives None where something is wrong with it.

    Raises:
        Refused: INVALID_ARGUMENT naming the bad value within the user's message.
    """
    try:
        if request.WhichOneof("context") == "user_embedding":
            given = "user_embedding"
            values = request.user_embedding.values
            if len(values) > limits.MAX_EMBEDDING_VALUES:
                got = f"{len(values)} numbers"
                raise InvalidContext("values", f"at most {limits.MAX_EMBEDDING_VALUES} numbers", got)
            embedding = np.fromiter(values, np.float32, len(values))
            user = None if resolver is None else resolver(embedding)
            if user is not None:
                return user
            return resolve_embedding(embedding, graph.centroids, k=k, temperature=temperature)
        given = "cluster_weights"
        clusters = request.cluster_weights
        return check_cluster_weights(clusters.cluster_ids, clusters.weights, n_clusters=graph.n_clusters)
    except InvalidContext as error:
        raise invalid_field(f"{given}.{error.field}", error.expected, error.got) from None


def check_ids(field: str, ids: Sequence[str], *, largest_count: int, within: str = "") -> None:
    """Check a list of 1 to `largest_count` distinct ids of 1 to `MAX_ID_BYTES` bytes each.

    Args:
        field: path of the list.
        ids: the ids.
        largest_count: the most ids.
        within: path of the id within an element of the list, such as ".item_id".

    Raises:
        Refused: INVALID_ARGUMENT naming the list, or the first bad element.
    """
    if not 1 <= len(ids) <= largest_count:
        raise invalid_field(field, f"1 to {largest_count} ids", f"{len(ids)} ids")
    # A character has at most four bytes: counting characters settles all but the longest ids.
    sizes = list(map(len, ids))
    if min(sizes) == 0 or 4 * max(sizes) > limits.MAX_ID_BYTES:
        for at, item_id in enumerate(ids):
            check_text(f"{field}[{at}]{within}", item_id, smallest=1)
    check_distinct(field, ids, within=within)


def check_distinct(field: str, values: Sequence[str | int], *, within: str = "") -> None:
    """Check that no value is there twice; arguments as of `check_ids`.

    Raises:
        Refused: INVALID_ARGUMENT naming the first repeated element.
    """
    if len(set(values)) == len(values):
        return
    seen: set[str | int] = set()
    for at, value in enumerate(values):
        if value in seen:
            raise invalid_field(f"{field}[{at}]{within}", "distinct values", f"{value} again")
        seen.add(value)


def check_text(field: str, text: str, *, smallest: int = 0, largest: int = limits.MAX_ID_BYTES) -> None:
    """Check the size of a string.

    Raises:
        Refused: INVALID_ARGUMENT naming the field.
    """
    size = len(text) if text.isascii() else len(text.encode())
    if not smallest <= size <= largest:
        raise invalid_field(field, f"{smallest} to {largest} bytes", f"{size} bytes" if size else "an empty string")


def _check_common(request: Any, item_ids: list[str], slate_size: int) -> SlateQuery:
    check_text("request_id", request.request_id)
    check_text("surface", request.surface, largest=limits.MAX_SURFACE_BYTES)
    check_text("user_key", request.user_key)
    _check_mode(request.mode)
    excluded = list(request.exclude_item_ids)
    if len(excluded) > limits.MAX_EXCLUDED:
        raise invalid_field("exclude_item_ids", f"at most {limits.MAX_EXCLUDED} ids", f"{len(excluded)} ids")
    _check_user_given(request)
    seed = request.seed if request.HasField("seed") else None
    return SlateQuery(request, item_ids, slate_size, request.mode, seed, excluded)


def _check_mode(mode: int) -> None:
    if mode and mode not in MODE_NAMES:
        largest = max(MODE_NAMES)
        raise invalid_field("mode", f"a Mode, 0 to {largest}", mode)


def _check_user_given(request: AnyRequest) -> None:
    if request.WhichOneof("context") is None:
        raise invalid_field("context", "user_embedding or cluster_weights", "neither")

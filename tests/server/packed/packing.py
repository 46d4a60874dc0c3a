"""Score requests as packed queries, and packed slates as they would have been answered one by one."""

from collections.abc import Sequence

import numpy as np
from google.rpc.status_pb2 import Status

from freshet.v1 import events_pb2, recommender_pb2


def packed(
    requests: Sequence[recommender_pb2.ScoreRequest], *, known: dict[str, int], seeds: bool = True
) -> recommender_pb2.PackedQueries:
    """Requests as columns; `known` is the dictionary so far, and is added to."""
    items, added, clusters, weights, embeddings = [], [], [], [], []
    for request in requests:
        for item_id in request.item_ids:
            if item_id not in known:
                known[item_id] = len(known)
                added.append(item_id)
            items.append(known[item_id])
        clusters += request.cluster_weights.cluster_ids
        weights += request.cluster_weights.weights
        embeddings += request.user_embedding.values
    queries = recommender_pb2.PackedQueries(
        dictionary=added,
        items=np.array(items, "<i4").tobytes(),
        item_counts=np.array([len(request.item_ids) for request in requests], "<i4").tobytes(),
        slate_sizes=np.array([request.slate_size for request in requests], "<i4").tobytes(),
        modes=bytes(request.mode for request in requests),
        surface=requests[0].surface,
    )
    if seeds:
        queries.seeds = np.array([request.seed for request in requests], "<u8").tobytes()
    if embeddings:
        queries.embeddings = np.array(embeddings, "<f4").tobytes()
    else:
        queries.cluster_ids = np.array(clusters, "<i4").tobytes()
        queries.weights = np.array(weights, "<f4").tobytes()
        counts = [len(request.cluster_weights.cluster_ids) for request in requests]
        queries.cluster_counts = np.array(counts, "<i4").tobytes()
    return queries


def unpacked(
    slates: recommender_pb2.PackedSlates, requests: Sequence[recommender_pb2.ScoreRequest]
) -> list[recommender_pb2.ScoreResponse | Status]:
    """Each slate as the unary call would have answered it."""
    counts = np.frombuffer(slates.item_counts, "<i4")
    candidate = np.frombuffer(slates.candidates, "<i4").tolist()
    columns = [np.frombuffer(c, "<f8").tolist() for c in (slates.scores, slates.means, slates.widths)]
    propensity = np.frombuffer(slates.propensities, "<f8").tolist()
    errors = {error.slate: error.status for error in slates.errors}
    unknown = set(np.frombuffer(slates.unknown, "<i4").tolist())
    policies = {policy.mode: policy for policy in slates.policies}
    users = _users(slates, requests)
    answers: list[recommender_pb2.ScoreResponse | Status] = []
    entry, first = 0, 0
    for number, request in enumerate(requests):
        ids = request.item_ids
        if number in errors:
            assert counts[number] == 0
            answers.append(errors[number])
        else:
            mode = slates.modes[number]
            answers.append(
                recommender_pb2.ScoreResponse(
                    request_id=request.request_id,
                    items=[
                        recommender_pb2.ScoredItem(
                            item_id=ids[candidate[at]],
                            position=at - entry,
                            score=columns[0][at],
                            mean=columns[1][at],
                            width=columns[2][at],
                            propensity=propensity[at],
                            propensity_kind=policies[mode].propensity_kind,
                            explored=bool(slates.explored[at]),
                        )
                        for at in range(entry, entry + counts[number])
                    ],
                    unknown_item_ids=[item_id for at, item_id in enumerate(ids) if first + at in unknown],
                    policy=policies[mode].policy,
                    graph_version=slates.graph_version,
                    parameters_position=slates.parameters_position,
                    context=users[number],
                    mode=mode,  # type: ignore[arg-type]
                    seed=int(np.frombuffer(slates.seeds, "<u8")[number]),
                )
            )
        entry += counts[number]
        first += len(ids)
    return answers


def _users(
    slates: recommender_pb2.PackedSlates, requests: Sequence[recommender_pb2.ScoreRequest]
) -> list[events_pb2.ClusterWeights | None]:
    """The resolved users, None where the caller knows them."""
    if not slates.cluster_counts:
        return [None] * len(requests)
    clusters, weights = np.frombuffer(slates.cluster_ids, "<i4"), np.frombuffer(slates.weights, "<f4")
    users: list[events_pb2.ClusterWeights | None] = []
    start = 0
    for count in np.frombuffer(slates.cluster_counts, "<i4").tolist():
        part = slice(start, start + count)
        users.append(events_pb2.ClusterWeights(cluster_ids=clusters[part].tolist(), weights=weights[part].tolist()))
        start += count
    return users

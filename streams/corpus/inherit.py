"""Clusters made anew from those of a graph in force: where they start, and the map that sums are inherited through.

Invariant: users are compared by their contexts alone, so that their embeddings may have been trained anew.
"""

from bandits.context import resolve_embeddings
from bandits.graph import Float32, Graph
from bandits.overlap import OverlapMap, carried_centroids, overlap_map
from streams.corpus.errors import CorpusError

_MOST_USERS = 200_000  # more say no more, and memory is k x k numbers a user


def first_centroids(old: Graph, old_users: Float32, users: Float32, *, k: int, temperature: float) -> Float32:
    """Where the old clusters lie among users' new embeddings, float32 of shape (old.n_clusters, dim).

    Args:
        old: the graph in force, with centroids.
        old_users: embeddings of users in its space, of shape (n, dim of old).
        users: new embeddings of the same users, of shape (n, dim).
        k: clusters of a user.
        temperature: of their softmax; both as the server has them.

    Raises:
        CorpusError: the users are not the same number, or not of the graph's dimension.
    """
    old_users, users = _same(old, old_users, users)
    context = resolve_embeddings(old_users, old.centroids, k=k, temperature=temperature)
    return carried_centroids(context, users, n_old=old.n_clusters)


def overlap_of(
    old: Graph, old_users: Float32, new: Graph, users: Float32, *, k: int, temperature: float
) -> OverlapMap:
    """What became of the clusters of a graph, as its users tell; arguments as of `first_centroids`.

    Raises:
        CorpusError: the users are not the same number, or not of the graphs' dimensions.
    """
    old_users, users = _same(old, old_users, users)
    return overlap_map(
        resolve_embeddings(old_users, old.centroids, k=k, temperature=temperature),
        resolve_embeddings(users, new.centroids, k=k, temperature=temperature),
        n_old=old.n_clusters,
        n_new=new.n_clusters,
    )


def _same(old: Graph, old_users: Float32, users: Float32) -> tuple[Float32, Float32]:
    if len(old_users) != len(users):
        raise CorpusError(f"old users: expected {len(users)}, the same as the new ones, got {len(old_users)}")
    if old_users.shape[1] != old.centroids.shape[1]:
        expected = f"{old.centroids.shape[1]} dimensions as the centroids of {old.version}"
        raise CorpusError(f"old users: expected {expected}, got {old_users.shape[1]}")
    step = -(-len(users) // _MOST_USERS)
    return old_users[::step], users[::step]

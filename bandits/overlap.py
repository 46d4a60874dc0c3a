"""What sums a graph inherits when its clusters are made anew.

Clusters are matched through users: of each user of a sample the context over the old clusters and the one over the
new are known, and the map M is what turns the first into the second, w'_u = sum over c of w_uc M_cc', at best. Sums
are linear in the weights, so the same map turns sums over old clusters into sums over new ones. Only contexts are
compared, so old and new embeddings need not share a space.

Invariants: the shares of an old cluster are whole multiples of 2^-20 that add up to 1 exactly; every old edge gives
floor(sum * share) to a new one, in integer arithmetic, so nothing is ever made up, less than one unit a share is
lost to rounding, and the result does not depend on any order; sums saturate and never wrap.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.arena import ranges
from bandits.graph import Graph
from bandits.sums import EXCESS, LARGEST, Sums, locate, numbers_in

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SHARE_BITS = 20
_WHOLE = 1 << SHARE_BITS
_EDGES = 1 << 18  # of one block
_LEAST_SHARE = 1 / 256
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class OverlapMap:
    """Which new clusters an old one became; the shares of cluster c are the rows `ptr[c]:ptr[c+1]`.

    Attributes:
        ptr: int64 of shape (n_old + 1,).
        cluster: int32 of shape (ptr[-1],), new clusters, ascending within an old one.
        share: int64 of shape (ptr[-1],), unit 2^-20; of an old cluster with users they add up to 2^20.
        n_new: number of new clusters.
    """

    ptr: Int64
    cluster: Int32
    share: Int64
    n_new: int


def overlap_map(
    old: tuple[npt.ArrayLike, npt.ArrayLike],
    new: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    n_old: int,
    n_new: int,
    iterations: int = 30,
) -> OverlapMap:
    """The map that turns users' old contexts into their new ones.

    It starts from co-membership, M_cc' = sum over u of w_uc w'_uc' / sum over u of w_uc, which blurs where contexts
    overlap, and is sharpened by expectation maximisation of the likelihood of the new weights (the update of
    probabilistic latent semantic analysis, Hofmann 1999, with the old weights held fixed). Equal clusters
    tend to the identity.

    Args:
        old: cluster ids and weights of users over the old clusters, each of shape (n_users, k_old); as
            `resolve_embeddings` gives them.
        new: the same users over the new clusters, each of shape (n_users, k_new).
        n_old: number of old clusters.
        n_new: number of new clusters.
        iterations: of sharpening; 0 = co-membership.

    Returns:
        A map in which shares below 1/256 are left out; an old cluster that no user has is without shares.

    Raises:
        ValueError: shapes differ, or an id or weight is out of range.
    """
    old_ids, old_weights = _contexts("old", old, n_old)
    new_ids, new_weights = _contexts("new", new, n_new)
    if len(old_ids) != len(new_ids):
        raise ValueError(f"old, new: expected the same users, got {len(old_ids)} and {len(new_ids)}")
    pair = (old_ids[:, :, None] * n_new + new_ids[:, None, :]).ravel()
    cell, place = np.unique(pair, return_inverse=True)
    owner, target = np.divmod(cell, n_new)
    joint = (old_weights[:, :, None] * new_weights[:, None, :]).ravel()
    share = _normalised(np.bincount(place, joint, len(cell)), owner, n_old)
    shape = (len(old_ids), old_ids.shape[1], new_ids.shape[1])
    for _ in range(iterations):
        # How much of a user's new weight each of the old clusters explains.
        explained = old_weights[:, :, None] * share[place].reshape(shape)
        explained *= (new_weights / np.maximum(explained.sum(axis=1), _TINY))[:, None, :]
        share = _normalised(np.bincount(place, explained.ravel(), len(cell)), owner, n_old)
    return _fixed_point(owner, target, share, n_old, n_new)


def carried_centroids(old: tuple[npt.ArrayLike, npt.ArrayLike], users: npt.ArrayLike, *, n_old: int) -> Float32:
    """Where the old clusters lie among users' new embeddings: the mean user of each, weighted by old contexts.

    Clusters made anew from there keep what the old ones told apart, and users need not be in the same space as
    before. Made anew from a random start, they mix it, and no map can bring it back.

    Args:
        old: cluster ids and weights of users over the old clusters, each of shape (n_users, k).
        users: new embeddings of the same users, of shape (n_users, dim).
        n_old: number of old clusters.

    Returns:
        float32 of shape (n_old, dim); a cluster without users lies at the mean of all.

    Raises:
        ValueError: shapes differ, or an id or weight is out of range.
    """
    ids, weights = _contexts("old", old, n_old)
    places = np.asarray(users, np.float64)
    if places.ndim != 2 or len(places) != len(ids):
        raise ValueError(f"users: expected shape ({len(ids)}, dim), got {places.shape}")
    mass = np.bincount(ids.ravel(), weights.ravel(), n_old)
    sums = np.stack(
        [np.bincount(ids.ravel(), (weights * column[:, None]).ravel(), n_old) for column in places.T], axis=1
    )
    means = np.where(mass[:, None] > 0, sums / np.maximum(mass, _TINY)[:, None], places.mean(axis=0))
    return means.astype(np.float32)


def inherit_sums(old: Graph, old_sums: Sums, new: Graph, overlap: OverlapMap) -> Sums:
    """Sums of `old` as its users would have given them to the clusters of `new`.

    An item keeps its impressions and rewards whole. A share that falls on a cluster with no edge to the item is
    dropped, as an impression there would have been. Items that `new` does not have are dropped.

    Raises:
        ValueError: the map is not between the clusters of these graphs.
    """
    if len(overlap.ptr) - 1 != old.n_clusters or overlap.n_new != new.n_clusters:
        sizes = f"{len(overlap.ptr) - 1} to {overlap.n_new}"
        raise ValueError(f"overlap: expected {old.n_clusters} to {new.n_clusters} clusters, got {sizes}")
    sums = Sums.zeros(new)
    sums.saturated = old_sums.saturated
    number = numbers_in(new, old)
    kept = np.flatnonzero(number >= 0)
    sums.item[number[kept]] = old_sums.item[kept]
    sums.saturated += _inherit(old_sums.edge, sums.edge, number, old, new, overlap)
    if old_sums.extra is not None and old_sums.times is not None:
        extra, times = sums.with_extra()
        times[number[kept]] = old_sums.times[kept]
        # What is in flight closes on the clusters that it was opened on.
        sums.saturated += _inherit(old_sums.extra[:, EXCESS:], extra[:, EXCESS:], number, old, new, overlap)
    return sums


def _inherit(values: Int64, target: Int64, number: Int32, old: Graph, new: Graph, overlap: OverlapMap) -> int:
    """Write what the edges of `new` inherit of some columns; how many sums did not fit."""
    touched = np.flatnonzero(values.any(axis=1))
    item = number[np.searchsorted(old.item_ptr, touched, side="right") - 1]
    touched, item = touched[item >= 0], item[item >= 0]
    # A sum of two halves of 32 bits can neither wrap nor lose a bit.
    high, low = np.zeros_like(target), np.zeros_like(target)
    for start in range(0, len(touched), _EDGES):
        part = slice(start, start + _EDGES)
        _give(values[touched[part]], old.edge_cluster[touched[part]], item[part], new, overlap, high, low)
    high += low >> 32
    full = high > LARGEST >> 32
    target[:] = np.where(full, LARGEST, (high << 32) | (low & 0xFFFFFFFF))
    return int(full.sum())


def _give(
    values: Int64, cluster: Int32, item: Int32, new: Graph, overlap: OverlapMap, high: Int64, low: Int64
) -> None:
    """Add floor(sum * share) of each old edge to the halves of its new edges."""
    sizes = np.diff(overlap.ptr)[cluster]
    at = ranges(overlap.ptr[cluster], sizes)
    source = np.repeat(np.arange(len(cluster)), sizes)
    edge = locate(new, item[source], overlap.cluster[at][:, None])[:, 0]
    found = np.flatnonzero(edge >= 0)
    edge, source, share = edge[found], source[found], overlap.share[at[found]]
    for column in range(values.shape[1]):
        whole, rest = values[source, column] >> SHARE_BITS, values[source, column] & (_WHOLE - 1)
        given = whole * share + ((rest * share) >> SHARE_BITS)
        np.add.at(high[:, column], edge, given >> 32)
        np.add.at(low[:, column], edge, given & 0xFFFFFFFF)


def _contexts(name: str, contexts: tuple[npt.ArrayLike, npt.ArrayLike], n_clusters: int) -> tuple[Int64, Float64]:
    ids, weights = np.asarray(contexts[0], np.int64), np.asarray(contexts[1], np.float64)
    if ids.ndim != 2 or ids.shape != weights.shape:
        raise ValueError(f"{name}: expected ids and weights of one shape (n, k), got {ids.shape}, {weights.shape}")
    if ids.size and not 0 <= ids.min() <= ids.max() < n_clusters:
        raise ValueError(f"{name}: expected 0 <= cluster < {n_clusters}, got {ids.min()} to {ids.max()}")
    if not (weights >= 0).all() or not np.isfinite(weights).all():
        raise ValueError(f"{name}: expected finite weights, 0 or more")
    return ids, weights


def _normalised(mass: npt.ArrayLike, owner: Int64, n_old: int) -> Float64:
    """Mass as shares of its owner's total."""
    values = np.asarray(mass, np.float64)
    total = np.bincount(owner, values, n_old)
    shares: Float64 = values / np.maximum(total, _TINY)[owner]
    return shares


def _fixed_point(owner: Int64, target: Int64, share: Float64, n_old: int, n_new: int) -> OverlapMap:
    """Shares rounded down to multiples of 2^-20; what is left goes to the largest of an owner."""
    best = np.zeros(n_old)
    np.maximum.at(best, owner, share)
    kept = (share >= _LEAST_SHARE) | ((share == best[owner]) & (share > 0))
    owner, target, share = owner[kept], target[kept], share[kept]
    units = np.floor(_normalised(share, owner, n_old) * _WHOLE).astype(np.int64)
    ptr = np.searchsorted(owner, np.arange(n_old + 1)).astype(np.int64)
    by_share = np.lexsort((-units, owner))
    first = by_share[ptr[:-1][ptr[:-1] < ptr[1:]]]
    given = np.zeros(n_old, np.int64)
    np.add.at(given, owner, units)
    units[first] += _WHOLE - given[owner[first]]
    return OverlapMap(ptr, target.astype(np.int32), units, n_new)

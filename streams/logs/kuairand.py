"""KuaiRand-Pure (Gao et al., CIKM 2022, doi 10.1145/3511808.3557624): short-video impressions and clicks.

The log has no request ids: rows of one user at one millisecond are one request. It has no click times either, so
a click carries the time of its impression. Users become clusters through their profile features; an item's place
is the mean of the users it was shown to, a stand-in for a trained item tower.
"""

import csv
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from bandits.context import attach_items, fixed_point_weights, resolve_embeddings
from bandits.graph import Float32, Int64, build_graph
from streams.logs.event_log import EventLog, LogError, principal_axes, unit_rows

_COLUMNS = ("user_id", "video_id", "time_ms", "is_click")
_CATEGORIES = (
    "user_active_degree",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in (0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17)),
)
_CLUSTERS, _DIMENSIONS, _CLUSTERS_PER_USER, _TEMPERATURE = 64, 16, 5, 0.1
_ITEM_SHARE = 4  # each cluster is joined to a quarter of the items


def read_kuairand(folder: Path) -> EventLog:
    """Read `impressions.csv.gz` and `user_features_pure.csv.gz` of a folder.

    Raises:
        LogError: a file or column is missing, or a value is not a number.
    """
    log = _read_table(folder / "impressions.csv.gz", _COLUMNS)
    user_id, video_id, time_ms, click = (_integers(folder, log, name) for name in _COLUMNS)
    profiles = _read_table(folder / "user_features_pure.csv.gz", ("user_id", *_CATEGORIES))
    embeddings = principal_axes(_one_hot(profiles), _DIMENSIONS)
    known = {int(user): row for row, user in enumerate(profiles["user_id"])}
    user = np.array([known.get(number, len(known)) for number in user_id.tolist()], np.int64)
    # A user without a profile is the average user: the last row.
    embeddings = np.vstack([embeddings, unit_rows(embeddings.mean(axis=0, keepdims=True))])
    centroids, _ = kmeans2(embeddings[np.unique(user)], _CLUSTERS, minit="++", seed=0, iter=20)
    centroids = unit_rows(centroids.astype(np.float32))
    clusters, weights = resolve_embeddings(embeddings, centroids, k=_CLUSTERS_PER_USER, temperature=_TEMPERATURE)
    videos, item = np.unique(video_id, return_inverse=True)
    places = np.zeros((len(videos), _DIMENSIONS), np.float32)
    np.add.at(places, item, embeddings[user])
    edge_item, edge_cluster = attach_items(unit_rows(places), centroids, top_w=len(videos) // _ITEM_SHARE)
    graph = build_graph(
        version="kuairand-1",
        centroids=centroids,
        item_ids=[str(video) for video in videos.tolist()],
        edge_item=edge_item,
        edge_cluster=edge_cluster,
    )
    ids = zip(user_id.tolist(), time_ms.tolist(), strict=True)
    return EventLog(
        name="kuairand",
        graph=graph,
        request_ids=[f"{who}-{when}" for who, when in ids],
        item_ids=[str(video) for video in video_id.tolist()],
        occurred_at_ms=time_ms,
        clicked=click.astype(np.float64),
        position=np.zeros(len(item), np.int32),
        propensity=np.zeros(len(item)),
        user=user,
        context_ends=np.arange(1, len(embeddings) + 1) * clusters.shape[1],
        context_cluster=clusters.ravel(),
        context_x=fixed_point_weights(weights).ravel(),
        note="no propensities: the logging policy chose, so the replay estimate is biased towards what it liked",
    )


def _read_table(path: Path, columns: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows)
            body = list(zip(*rows, strict=True))
    except FileNotFoundError as error:
        raise LogError(f"{path}: expected a file, got none") from error
    except (OSError, EOFError, ValueError, StopIteration, UnicodeDecodeError) as error:
        raise LogError(f"{path}: expected a gzipped table of equal rows, got {error}") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise LogError(f"{path}: expected column {missing[0]}, got {', '.join(header)}")
    return {name: list(body[header.index(name)]) if body else [] for name in columns}


def _integers(folder: Path, table: dict[str, list[str]], name: str) -> Int64:
    try:
        return np.array(table[name], np.int64)
    except ValueError as error:
        raise LogError(f"{folder}: column {name}: expected whole numbers, got {error}") from error


def _one_hot(table: dict[str, list[str]]) -> Float32:
    blocks: list[npt.NDArray[np.float32]] = []
    for name in _CATEGORIES:
        values, code = np.unique(np.array(table[name]), return_inverse=True)
        blocks.append(np.eye(len(values), dtype=np.float32)[code])
    return np.hstack(blocks)

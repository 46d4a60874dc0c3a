"""The two towers as arithmetic on named arrays, the same for NumPy and for the framework that trains them.

Invariants: embeddings have length 1; an item without an id row has a zero id vector, which is what id dropout
trains the tower for, so an unseen item has a place by its content alone.

Symbols: F, G features of items and users; H hidden units; D dimensions of an embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bandits.graph import Float32

Parameters = Mapping[str, Any]
ITEM_PARAMETERS = ("item_content", "item_bias", "item_out", "item_out_bias", "item_id")


def first_parameters(
    *, n_items: int, item_features: int, user_features: int, hidden: int, dim: int, seed: int
) -> dict[str, Float32]:
    """Random parameters, scaled by the square root of what they add up (He et al., ICCV 2015)."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, fan_in: int) -> Float32:
        drawn: Float32 = (rng.standard_normal(shape) * np.sqrt(2 / max(1, fan_in))).astype(np.float32)
        return drawn

    flags = 16  # of a row of features, about so many are 1
    return {
        "item_content": normal(item_features, hidden, fan_in=flags),
        "item_id": normal(n_items, hidden, fan_in=8 * flags),
        "item_bias": np.zeros(hidden, np.float32),
        "item_out": normal(hidden, dim, fan_in=hidden),
        "item_out_bias": np.zeros(dim, np.float32),
        "user_history": normal(dim, hidden, fan_in=1),
        "user_features": normal(user_features, hidden, fan_in=8 * flags),
        "user_bias": np.zeros(hidden, np.float32),
        "user_out": normal(hidden, dim, fan_in=4 * hidden),
        "user_out_bias": np.zeros(dim, np.float32),
    }


def item_tower(parameters: Parameters, content: Any, id_vectors: Any) -> Any:
    """Embeddings of items.

    Args:
        parameters: see `first_parameters`.
        content: features, of shape (..., F).
        id_vectors: rows of `item_id`, of shape (..., H); zeros where an item has none.

    Returns:
        Shape (..., D), each of length 1.
    """
    hidden = content @ parameters["item_content"] + id_vectors + parameters["item_bias"]
    return _unit(_positive(hidden) @ parameters["item_out"] + parameters["item_out_bias"])


def user_tower(parameters: Parameters, history: Any, features: Any) -> Any:
    """Embeddings of users.

    Args:
        parameters: see `first_parameters`.
        history: mean of the embeddings of the items last liked, of shape (..., D); zeros where there are none.
        features: of shape (..., G).

    Returns:
        Shape (..., D), each of length 1.
    """
    hidden = history @ parameters["user_history"] + features @ parameters["user_features"] + parameters["user_bias"]
    return _unit(history + _positive(hidden) @ parameters["user_out"] + parameters["user_out_bias"])


def mean_history(embeddings: Any, history: Any) -> Any:
    """Mean embedding of the items of a history.

    Args:
        embeddings: of shape (n, length, D), anything where there is no item.
        history: item numbers, of shape (n, length), -1 where there is none.
    """
    known = (history >= 0)[..., None]
    return (embeddings * known).sum(axis=1) / (known.sum(axis=1) + (known.sum(axis=1) == 0))


def embed_items(parameters: Parameters, content: Float32, known: Any) -> Float32:
    """Embeddings of the whole corpus.

    Args:
        parameters: NumPy arrays.
        content: float32 of shape (n_items, F).
        known: bool of shape (n_items,), items that were learned from; the others get their content's place.

    Returns:
        float32 of shape (n_items, D).
    """
    ids = np.where(known[:, None], parameters["item_id"], np.float32(0))
    return np.asarray(item_tower(parameters, content, ids), np.float32)


def embed_users(parameters: Parameters, items: Float32, history: Any, features: Float32) -> Float32:
    """Embeddings of users, float32 of shape (n, D), from histories of shape (n, length) and features (n, G)."""
    means = [mean_history(items[part], part) for part in np.array_split(history, 1 + len(history) // 8192)]
    return np.asarray(user_tower(parameters, np.concatenate(means), features), np.float32)


def _positive(values: Any) -> Any:
    return values * (values > 0)


def _unit(values: Any) -> Any:
    return values / ((values * values).sum(axis=-1, keepdims=True) + 1e-12) ** 0.5

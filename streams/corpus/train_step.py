"""One step of training the two towers, compiled; the one module that knows the framework (JAX and Optax).

Invariants: a step is a function of its arguments and the seed; nothing is imported before training begins.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bandits.graph import Float32
from streams.corpus.errors import optional_library
from streams.corpus.towers import Parameters, item_tower, mean_history, user_tower


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the towers and how they are trained.

    Attributes:
        dim: D, dimensions of an embedding.
        hidden: H, hidden units of each tower.
        history: items of a user's history.
        batch: events of one step; each is a negative of the others.
        learning_rate: of Adam.
        temperature: tau of the softmax over a batch.
        id_dropout: share of items whose id is hidden in a step.
        seed: of everything random.
    """

    dim: int = 64
    hidden: int = 128
    history: int = 20
    batch: int = 512
    learning_rate: float = 2e-3
    temperature: float = 0.1
    id_dropout: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Trainer:
    """What training needs of the framework.

    Attributes:
        start: optimizer state of parameters.
        step: (parameters, state, users, items, histories, number of the step) -> (parameters, state, loss).
        leaves: arrays of an optimizer state, in a fixed order.
        rebuild: an optimizer state like another, from its arrays.
        device: where it runs.
    """

    start: Callable[[Any], Any]
    step: Callable[[Any, Any, Any, Any, Any, int], tuple[Any, Any, Any]]
    leaves: Callable[[Any], list[Any]]
    rebuild: Callable[[Any, list[Any]], Any]
    device: str


def make_trainer(settings: ModelSettings, *, content: Float32, features: Float32, log_q: Float32) -> Trainer:
    """Compile the step for one corpus.

    The loss is the softmax over the items of the batch, each logit <u, v> / tau - log q_j, where q_j is the share
    of item j among the training events: in-batch negatives come in proportion to it (Yi et al., RecSys 2019,
    section 3; there q is estimated from a stream, here the whole log is known). Another event's item that is the
    same as one's own is no negative.

    Args:
        settings: shapes and rates.
        content: features of items, float32 of shape (n_items, F).
        features: features of users, float32 of shape (n_users, G).
        log_q: float32 of shape (n_items,).

    Raises:
        MissingLibrary: JAX or Optax is not installed.
    """
    jax = optional_library("jax", needed_for="training", extra="train")
    optax = optional_library("optax", needed_for="training", extra="train")
    jnp = jax.numpy
    optimizer = optax.adam(settings.learning_rate)
    item_rows, user_rows, item_log_q = jnp.asarray(content), jnp.asarray(features), jnp.asarray(log_q)

    def embed(parameters: Parameters, item: Any, key: Any) -> Any:
        shown = jax.random.bernoulli(key, 1 - settings.id_dropout, item.shape)
        ids = parameters["item_id"][item] * shown[..., None]
        return item_tower(parameters, item_rows[item], ids)

    def loss(parameters: Parameters, user: Any, item: Any, history: Any, key: Any) -> Any:
        own, past = jax.random.split(key)
        items = embed(parameters, item, own)
        means = mean_history(embed(parameters, jnp.maximum(history, 0), past), history)
        users = user_tower(parameters, means, user_rows[user])
        logits = users @ items.T / settings.temperature - item_log_q[item][None, :]
        same = (item[None, :] == item[:, None]) & ~jnp.eye(len(item), dtype=bool)
        logits = jnp.where(same, -jnp.inf, logits)
        return -jnp.diagonal(jax.nn.log_softmax(logits, axis=1)).mean()

    def step(parameters: Any, state: Any, user: Any, item: Any, history: Any, number: int) -> tuple[Any, Any, Any]:
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        value, gradient = jax.value_and_grad(loss)(parameters, user, item, history, key)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    def rebuild(like: Any, leaves: list[Any]) -> Any:
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)

    device = jax.devices()[0]
    return Trainer(optimizer.init, jax.jit(step), jax.tree_util.tree_leaves, rebuild, str(device.platform))

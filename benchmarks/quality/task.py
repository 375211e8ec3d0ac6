"""What a task is, and how one is made of a linen model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from precond import layers
from precond.layers import linen

Key, Params = jax.Array, Any


class Layers(NamedTuple):
    """What K-FAC needs: a capture, the forward pass through it, and the likelihood of the loss."""

    capture: layers.Capture
    forward: Callable[[Params, Any], Any]
    likelihood: Any


class Task(NamedTuple):
    """A loss of random batches.

    Attributes:
      steps: how many are trained.
      init: the parameters of a seed.
      batch: a batch, from a key.
      forward: outputs, from the parameters and a batch.
      loss: of outputs and the batch.
      layers: makes what K-FAC needs; None where K-FAC does not fit.
      rate: the middle of the learning rates that are tried.
      nesterov: the same for Nesterov's method, where it depends on the scale of the loss.
    """

    steps: int
    init: Callable[[Key], Params]
    batch: Callable[[Key], Any]
    forward: Callable[[Params, Any], Any]
    loss: Callable[[Any, Any], jax.Array]
    layers: Callable[[], Layers] | None = None
    rate: float = 1e-2
    nesterov: float = 0.3


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def half_squares(outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    return 0.5 * jnp.mean(jnp.sum((outputs - wanted) ** 2, axis=-1))


def supervised(
    model: nn.Module, batch: Callable[[Key], Any], loss: Callable[..., jax.Array], likelihood: Any, **rest: Any
) -> Task:
    """A task of a linen model and batches of inputs and targets; a BatchNorm takes the batch's own statistics."""
    x = batch(jax.random.key(0))[0][:8]
    keep = {"mutable": ["batch_stats"]}

    def captured() -> Layers:
        capture = linen.capture(model, model.init(jax.random.key(0), x), x, **keep)
        return Layers(capture, lambda p, batch: capture.apply({"params": p}, batch[0], **keep)[0], likelihood)

    return Task(
        init=lambda key: model.init(key, x)["params"],
        batch=batch,
        forward=lambda params, batch: model.apply({"params": params}, batch[0], **keep)[0],
        loss=lambda outputs, batch: loss(outputs, batch[1]),
        layers=captured,
        **rest,
    )

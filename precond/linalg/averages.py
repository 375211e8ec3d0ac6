"""Sums and moving averages, the one accumulation rule that statistics and second moments share."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["average", "debias"]


def average(old: jax.Array, new: jax.Array, decay: ArrayLike, weight: ArrayLike | None = None) -> jax.Array:
    """`decay * old + weight * new`, in the dtype of `old`.

    Args:
      old: what has been accumulated so far.
      new: the term to add, of the same shape.
      decay: 1 makes a sum, less than 1 an exponential moving average.
      weight: of the new term. None takes `1 - decay`, or 1 where `decay` is 1.

    Example:
      >>> average(jnp.float32(2.0), jnp.float32(4.0), decay=0.75).item()
      2.5
      >>> average(jnp.float32(2.0), jnp.float32(4.0), decay=1.0).item()
      6.0
    """
    decay = jnp.asarray(decay, old.dtype)
    # A where, not a branch: under optax.inject_hyperparams the decay is a traced array.
    weight = jnp.where(decay == 1, 1, 1 - decay) if weight is None else weight
    return decay * old + jnp.asarray(weight, old.dtype) * new.astype(old.dtype)


def debias(x: jax.Array, decay: ArrayLike, count: jax.Array) -> jax.Array:
    """`x / (1 - decay^count)`: a moving average that began at zero, as a weighted mean; a sum stays.

    Args:
      x: what `average` gave after `count` terms, each with the default weight.
      decay: as given to `average`.
      count: the number of terms so far, at least 1.

    Example:
      >>> debias(jnp.float32(1.0), decay=0.75, count=jnp.int32(1)).item()
      4.0
    """
    decay = jnp.asarray(decay, x.dtype)
    return x / jnp.where(decay == 1, 1, 1 - decay ** count.astype(x.dtype))

"""Put the columns of each matrix of a stack in another order."""

import jax
import jax.numpy as jnp

__all__ = ["take_columns"]


def take_columns(x: jax.Array, order: jax.Array) -> jax.Array:
    """Return the columns of matrices in this order.

    Args:
      x: the matrices, `[M, m, n]`.
      order: the numbers of the columns, `[M, n]`, from 0 to n - 1. They are not checked.

    Returns:
      `[M, m, n]`.

    Examples:
      >>> take_columns(jnp.asarray([[[3.0, 5.0]]]), jnp.asarray([[1, 0]])).tolist()
      [[[5.0, 3.0]]]
    """
    return jnp.take_along_axis(x, order[:, None, :], axis=2, mode="promise_in_bounds")

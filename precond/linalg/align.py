"""Shape numbers for the rows of a stack, or for one axis of its blocks, so that they broadcast against the stack."""

import jax
import jax.numpy as jnp

__all__ = ["on_axis", "per_row"]


def per_row(x: jax.Array, ndim: int) -> jax.Array:
    """Shape one number for each row so that it broadcasts against a stack.

    Args:
      x: the numbers, `[N]`.
      ndim: the number of axes of the stack.

    Returns:
      `[N, 1, .., 1]`.

    Examples:
      >>> per_row(jnp.ones(4), 3).shape
      (4, 1, 1)
    """
    return x.reshape(-1, *[1] * (ndim - 1))


def on_axis(x: jax.Array, axis: int, ndim: int) -> jax.Array:
    """Shape numbers for one axis of each block so that they broadcast against a stack.

    Args:
      x: the numbers, `[N, d]`.
      axis: the axis of the blocks, from 0.
      ndim: the number of axes of the stack.

    Returns:
      `[N, 1, .., d, .., 1]`.

    Examples:
      >>> on_axis(jnp.ones((4, 3)), 1, 4).shape
      (4, 1, 3, 1)
    """
    return jnp.expand_dims(x, [i for i in range(1, ndim) if i != axis + 1])

"""Divide so that 0 / 0 is 0."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from precond.linalg.multiply import multiply

__all__ = ["divide_in_bases", "divide_or_zero"]


def divide_or_zero(x: jax.typing.ArrayLike, y: jax.Array) -> jax.Array:
    """Return x / y where y is positive, and 0 elsewhere, also for derivatives.

    Examples:
      >>> divide_or_zero(jnp.asarray([6.0, 1.0]), jnp.asarray([2.0, 0.0])).tolist()
      [3.0, 0.0]
    """
    positive = y > 0
    return jnp.where(positive, x / jnp.where(positive, y, 1), 0)


def divide_in_bases(x: jax.Array, bases: Sequence[jax.Array | None], denominator: jax.Array) -> jax.Array:
    """Divide each entry of a stack by a number of its own, in other bases.

    An entry that has seen no gradient so far would be 0 / 0, and is 0.

    Args:
      x: the stack, `[N, d1, .., dk]`.
      bases: the basis of each axis, `[N, d, d]`, in orthonormal columns; None is the axis's own basis.
      denominator: the numbers by which entries are divided, of a shape that can be broadcast to that of x.

    Returns:
      Shaped like x, in its own basis and dtype.

    Examples:
      >>> swap = jnp.asarray([[[0.0, 1.0], [1.0, 0.0]]])
      >>> divide_in_bases(
      ...     jnp.ones((1, 2, 1)), [swap, None], jnp.asarray([[[4.0], [0.0]]])
      ... ).tolist()
      [[[0.0], [0.25]]]
    """
    projected = multiply(x, bases, transpose=True)
    return multiply(divide_or_zero(projected, denominator).astype(x.dtype), bases)

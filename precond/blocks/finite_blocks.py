"""Which blocks have a gradient that can be used, and what becomes of the state of the others: nothing."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["finite_blocks", "keep_finite"]


def finite_blocks(stack: jax.Array) -> jax.Array:
    """Whether each block's sum of squares is finite, `[N]`.

    Not only NaN and infinity fail: nothing of second order can be made of a gradient whose square overflows.

    Args:
      stack: `[N, d1, .., dk]`.

    Examples:
      >>> finite_blocks(jnp.asarray([[1.0, 2.0], [1.0, jnp.nan], [1e30, 0.0]])).tolist()
      [True, False, False]
    """
    size = jnp.abs(stack)
    squares = jnp.square(size.astype(jnp.promote_types(jnp.float32, size.dtype)))
    return jnp.isfinite(jnp.sum(squares, axis=tuple(range(1, stack.ndim))))


def keep_finite(finite: jax.Array | None, new: Any, old: Any) -> Any:
    """Of each block its new state where its gradient is finite, else its old one.

    Args:
      finite: of each block, `[N]`; None takes all for finite.
      new: any tree of arrays with leading axis N.
      old: likewise.

    Examples:
      >>> keep_finite(jnp.asarray([True, False]), jnp.asarray([1, 2]), jnp.asarray([3, 4])).tolist()
      [1, 4]
    """
    if finite is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(finite.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)

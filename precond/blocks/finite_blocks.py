"""Find the blocks whose gradient is finite, and keep the state of the others as it was."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg import row_major
from precond.linalg.align import per_row

__all__ = ["finite_blocks", "keep_finite", "mask_blocks", "sum_of_squares"]


def finite_blocks(stack: jax.Array) -> jax.Array:
    """Return whether each block's sum of squares is finite, `[N]`.

    Besides NaN and infinity, a block fails if its square overflows, since its statistics would overflow, too.

    Args:
      stack: the stack, `[N, d1, .., dk]`.

    Examples:
      >>> finite_blocks(jnp.asarray([[1.0, 2.0], [1.0, jnp.nan], [1e30, 0.0]])).tolist()
      [True, False, False]
    """
    return jnp.isfinite(sum_of_squares(stack))


def sum_of_squares(stack: jax.Array) -> jax.Array:
    """Return each block's sum of squares, `[N]`, in float32 or wider.

    Args:
      stack: the stack, `[N, d1, .., dk]`.

    Examples:
      >>> sum_of_squares(jnp.asarray([[1.0, 2.0], [1.0, 1j]])).tolist()
      [5.0, 2.0]
    """
    size = jnp.abs(stack)
    squares = jnp.square(size.astype(jnp.promote_types(jnp.float32, size.dtype)))
    return jnp.sum(squares, axis=tuple(range(1, stack.ndim)))


def keep_finite(finite: jax.Array | None, new: Any, old: Any) -> Any:
    """Keep the new state of each block whose gradient is finite, and the old state of the others.

    Args:
      finite: whether each block is finite, `[N]`; None takes all for finite.
      new: a tree of arrays with leading axis N.
      old: the state before the step.

    Examples:
      >>> keep_finite(
      ...     jnp.asarray([True, False]), jnp.asarray([1, 2]), jnp.asarray([3, 4])
      ... ).tolist()
      [1, 4]
    """
    if finite is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(per_row(finite, n.ndim), n, o), new, old)


def mask_blocks(finite: jax.Array, stack: jax.Array) -> jax.Array:
    """Replace the blocks that are not finite by zeros.

    Without the barrier, a TPU writes the new second moments in the kernel that masks. It reads the old ones again
    later, and so must copy them.

    Args:
      finite: whether each block is finite, `[N]`.
      stack: the stack, `[N, d1, .., dk]`.

    Examples:
      >>> mask_blocks(
      ...     jnp.asarray([True, False]), jnp.asarray([[1.0, 2.0], [1.0, jnp.nan]])
      ... ).tolist()
      [[1.0, 2.0], [0.0, 0.0]]
    """
    return lax.optimization_barrier(row_major(keep_finite(finite, stack, jnp.zeros_like(stack))))

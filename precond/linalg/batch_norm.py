"""The norm of each block of a stack."""

import jax
import jax.numpy as jnp

__all__ = ["batch_norm"]


def batch_norm(x: jax.Array, batch_axes: int = 0) -> jax.Array:
    """Compute the Euclidean norm over all axes but the first `batch_axes`; the other axes get length 1.

    The largest entry is divided out first, so that no square overflows or vanishes. The derivative at zeros is 0.

    Examples:
      >>> batch_norm(jnp.asarray([[3.0, 4.0], [0.0, 1e-30]]), batch_axes=1).tolist()
      [[5.0], [1.0000000031710769e-30]]
    """
    axes = tuple(range(batch_axes, x.ndim))
    if x.size == 0:
        return jnp.zeros([1 if i in axes else d for i, d in enumerate(x.shape)], x.dtype)
    largest = jnp.max(jnp.abs(x), axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(jnp.square(x / scale), axes, keepdims=True)
    # The root of 0 has no derivative, which would make NaN of a zero that is passed back.
    return jnp.where(squares > 0, scale * jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)

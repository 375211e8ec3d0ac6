"""Norms of stacks and of the matrices in them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["batch_norm", "largest_eigenvalue"]


def batch_norm(x: jax.Array, batch_axes: int = 0) -> jax.Array:
    """The Euclidean norm over all axes but the first `batch_axes`, which stay (the rest become 1).

    The largest entry is taken out first, so that no square overflows or vanishes.

    Examples:
      >>> batch_norm(jnp.asarray([[3.0, 4.0], [0.0, 1e-30]]), batch_axes=1).tolist()
      [[5.0], [1.0000000031710769e-30]]
    """
    axes = tuple(range(batch_axes, x.ndim))
    if x.size == 0:
        return jnp.zeros([1 if i in axes else d for i, d in enumerate(x.shape)], x.dtype)
    largest = jnp.max(jnp.abs(x), axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale), axes, keepdims=True))


def largest_eigenvalue(a: jax.Array, iterations: int = 100) -> jax.Array:
    """The largest eigenvalue of symmetric positive semi-definite matrices, by power iteration.

    The Rayleigh quotient after a fixed number of products from a fixed start: a lower bound, whose error is
    second order in the angle to the eigenvector.

    Args:
      a: `[M, n, n]`.
      iterations: products with `a`.

    Returns:
      `[M]`; 0 for a zero matrix.

    Examples:
      >>> round(largest_eigenvalue(jnp.diag(jnp.asarray([1.0, 3.0]))[None])[0].item(), 5)
      3.0
    """
    start = np.random.default_rng(0).uniform(-1, 1, a.shape[-1])
    # Written so as to inherit the type of `a`: under shard_map a loop's carry must not change it.
    v = a[..., 0] * 0 + jnp.asarray(start / np.linalg.norm(start), a.dtype)

    def product(v):
        return jnp.einsum("mij,mj->mi", a, v, precision=lax.Precision.HIGHEST)

    def step(_, v):
        w = product(v)
        norm = jnp.linalg.norm(w, axis=-1, keepdims=True)
        return jnp.where(norm > 0, w / jnp.where(norm > 0, norm, 1), v)

    v = lax.fori_loop(0, iterations, step, v)
    return jnp.sum(v * product(v), axis=-1)

"""Estimate how far the singular values of matrices are from 1, from one vector."""

import jax
import jax.numpy as jnp
import numpy as np

from precond.linalg.products import product

__all__ = ["isometry_error"]


def isometry_error(x: jax.Array) -> jax.Array:
    r"""Estimate the root mean square of $s^2 - 1$ over the singular values of each matrix.

    For a vector v of random signs, as long as the shorter side m, the mean of $\|(X X^\top - I) v\|^2$ is the sum of
    $(s^2 - 1)^2$ (Hutchinson). The vector is fixed, and takes two products of X with a vector. For the 64 singular
    values that Jordan's quintics leave, the estimate is that mean to within a fifth.

    A matrix can be wrong in directions that this vector does not see. So the result is at least the absolute value of
    the mean of $s^2 - 1$, which is $\|X\|_F^2 / m - 1$. It is never above the root mean square.

    Args:
      x: the matrices, `[N, m, n]`.

    Returns:
      `[N]`, real; 0 for a matrix of zeros.

    Examples:
      >>> isometry_error(
      ...     jnp.asarray([[[2.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
      ... ).tolist()
      [3.0, 0.0]
    """
    wide = x.shape[1] <= x.shape[2]
    y = x if wide else jnp.swapaxes(x, 1, 2)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (y.shape[1], 1))
    v = jnp.asarray(signs, x.dtype)
    off = product(y, product(jnp.conj(jnp.swapaxes(y, 1, 2)), v)) - v
    seen = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(off)), axis=(1, 2)))
    mean = jnp.sum(jnp.square(jnp.abs(y)), axis=(1, 2)) / y.shape[1] - 1
    return jnp.where(jnp.any(x != 0, axis=(1, 2)), jnp.maximum(seen, jnp.abs(mean)), 0)

"""Compute the orthogonal polar factor by its definition."""

import jax
import jax.numpy as jnp

from precond.linalg.lapack import svd
from precond.linalg.products import product

__all__ = ["polar_factor"]


def polar_factor(x: jax.Array) -> jax.Array:
    r"""Return `U V^T` of the singular value decomposition `U S V^T`: all singular values that are not 0 become 1.

    A singular value below the largest times the unit of rounding times the longer side counts as 0 and stays 0. So a
    matrix of rank r becomes a partial isometry of rank r, and zeros stay zeros. This is what the iterations of
    `block_newton_schulz` approach; it is slow on accelerators.

    Args:
      x: the matrices, `[N, m, n]`.

    Returns:
      `[N, m, n]`.

    Examples:
      >>> polar_factor(jnp.asarray([[[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]]])).tolist()
      [[[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]]
    """
    u, s, vt = svd(x)
    least = s[:, :1] * max(x.shape[1:]) * jnp.finfo(x.dtype).eps
    return product(u * (s > least)[:, None, :].astype(u.dtype), vt)

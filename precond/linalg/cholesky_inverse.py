"""Invert symmetric positive definite matrices by their Cholesky decomposition."""

import jax
import jax.numpy as jnp

from precond.linalg.lapack import cholesky, solve_triangular
from precond.linalg.precision import dot_precision

__all__ = ["cholesky_inverse"]


def cholesky_inverse(a: jax.Array) -> jax.Array:
    """Invert matrices as `A^(-1) = L^(-T) L^(-1)`; NaN if A is not positive definite.

    Args:
      a: symmetric matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]`, symmetric to the last bit.

    Examples:
      >>> cholesky_inverse(jnp.full((1, 1, 1), 4.0)).item()
      0.25
    """
    half = solve_triangular(cholesky(a), jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape))
    return jnp.einsum("mij,mkj->mik", half, half, precision=dot_precision())

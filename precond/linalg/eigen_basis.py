"""Compute eigenvectors by the symmetric eigendecomposition (LAPACK, cuSOLVER, or XLA's Jacobi on TPU)."""

import jax
import jax.numpy as jnp

from precond.linalg.lapack import eigh

__all__ = ["eigen_basis"]


def eigen_basis(a: jax.Array) -> jax.Array:
    """Compute orthonormal eigenvectors, in the columns, by ascending eigenvalue.

    Args:
      a: symmetric matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> jnp.abs(eigen_basis(jnp.diag(jnp.asarray([2.0, 1.0]))[None]))[0].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    return jnp.ones_like(a) if a.shape[-1] == 1 else eigh(a)[1]

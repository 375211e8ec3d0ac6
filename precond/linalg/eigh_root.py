"""Compute roots by the symmetric eigendecomposition (LAPACK, cuSOLVER, or XLA's Jacobi on TPU)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from precond.linalg.lapack import eigh
from precond.linalg.precision import dot_precision

__all__ = ["eigh_root"]


def eigh_root(
    a: jax.Array, power: float, ridge: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute `(A + ridge I)^(-power)` of symmetric positive semi-definite matrices.

    Eigenvalues below 0, which only rounding can give, count as 0.

    Args:
      a: the matrices, `[M, n, n]`.
      power: a positive number.
      ridge: a function from the largest eigenvalues, `[M]`, to the numbers that are added to the diagonals, `[M]`.

    Returns:
      The roots, `[M, n, n]` and symmetric; the eigenvalues of A, ascending, `[M, n]`; and the ridges, `[M]`.

    Examples:
      >>> roots, _, _ = eigh_root(jnp.full((1, 1, 1), 3.0), 0.5, lambda largest: largest / 3)
      >>> round(roots.item(), 5)
      0.5
    """
    values, vectors = eigh(a)
    damping = ridge(values[:, -1])
    damped = jnp.maximum(values, 0) + damping[:, None]
    # Both sides carry half the power, so that the product is symmetric to the last bit.
    half = vectors * (damped ** (-power / 2))[:, None, :]
    root = jnp.einsum("mij,mkj->mik", half, half, precision=dot_precision())
    return root, values, damping

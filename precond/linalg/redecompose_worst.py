"""Decompose one matrix of every group, the one that needs it most, so that the cost is fixed."""

import jax
import jax.numpy as jnp

from precond.linalg.eigen_basis import eigen_basis
from precond.linalg.products import product
from precond.linalg.rotate_basis import scaled_off_diagonal
from precond.linalg.take_columns import take_columns

__all__ = ["continued_eigen_basis", "redecompose_worst"]


def continued_eigen_basis(a: jax.Array, basis: jax.Array) -> jax.Array:
    """Compute orthonormal eigenvectors, each in the place of the column of a basis that it continues.

    The column with the k-th smallest Rayleigh quotient is replaced by the eigenvector of the k-th smallest eigenvalue.

    Args:
      a: symmetric matrices, `[M, n, n]`.
      basis: the bases, `[M, n, n]`, in orthonormal columns near the eigenvectors.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> a = jnp.diag(jnp.asarray([1.0, 2.0]))[None]
      >>> basis = jnp.asarray([[[0.6, 0.8], [0.8, -0.6]]])
      >>> # The quotients are 1.64 and 1.36, and the larger one is the first.
      >>> jnp.abs(continued_eigen_basis(a, basis))[0].tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    quotients = jnp.sum(basis * product(a, basis), axis=1)
    rank = jnp.argsort(jnp.argsort(quotients, axis=1), axis=1)
    return take_columns(eigen_basis(a), rank)


def redecompose_worst(a: jax.Array, basis: jax.Array, tolerance: float, group: int) -> jax.Array:
    """Decompose the matrix with the worst basis of every `group` consecutive ones, and replace the basis if it is bad.

    One matrix of each group is decomposed in any case, so that the cost is always the same. The result is discarded if
    the basis was good enough, or if the decomposition is not finite. Nothing depends on matrices outside the group.

    Args:
      a: symmetric positive semi-definite matrices, `[M, n, n]`.
      basis: the bases, `[M, n, n]`, in orthonormal columns.
      tolerance: the largest `scaled_off_diagonal` of a good basis.
      group: the number of matrices in a group. Matrices 0 to `group - 1` are the first group, and so on; the last group
        may be smaller.

    Returns:
      `[M, n, n]`, see `continued_eigen_basis`.

    Examples:
      >>> a = jnp.asarray([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.5], [0.5, 1.0]]])
      >>> basis = jnp.stack([jnp.eye(2)] * 2)
      >>> scaled_off_diagonal(a, redecompose_worst(a, basis, tolerance=0.1, group=2)).round(
      ...     3
      ... ).tolist()
      [0.0, 0.0]
    """
    rows = a.shape[0]
    groups = -(-rows // group)
    badness = scaled_off_diagonal(a, basis)
    # A matrix that is not finite has no decomposition, and must not be chosen instead of another one.
    badness = jnp.where(badness < jnp.inf, badness, 0)
    badness = jnp.pad(badness, (0, groups * group - rows), constant_values=-1).reshape(groups, group)
    chosen = jnp.argmax(badness, axis=1) + group * jnp.arange(groups)
    old = basis[chosen]
    new = continued_eigen_basis(a[chosen], old)
    good = (jnp.max(badness, axis=1) > tolerance) & jnp.all(jnp.isfinite(new), axis=(1, 2))
    return basis.at[chosen].set(jnp.where(good[:, None, None], new, old), unique_indices=True)

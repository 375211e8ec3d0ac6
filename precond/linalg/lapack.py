"""Decompositions of stacks of matrices; on the CPU one matrix at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["cholesky", "eigh", "orthonormal_columns", "solve_positive", "solve_triangular"]


def _matrix_by_matrix(decompose: Callable[..., Any]) -> Callable[..., Any]:
    """A function of stacks that on the CPU calls LAPACK for one matrix after the other.

    XLA's CPU client (jaxlib 0.10) splits a batch for LAPACK over one pool of threads and waits there for its share. Two
    such calls at the same time, of one program or of two devices, can wait for each other for ever; and no order within
    a program prevents it, as an `optimization_barrier` does not outlive compilation. For a batch of one nothing is
    split, and other batches go on beside it.
    """
    # Unlike `lax.map` this stays a loop under the user's own vmap.
    one = jax.custom_batching.sequential_vmap(decompose)

    @jax.custom_jvp
    def call(*stacks: jax.Array) -> Any:
        return lax.platform_dependent(*stacks, cpu=jax.vmap(one), default=decompose)

    # `sequential_vmap` has no reverse mode; the decompositions themselves have.
    call.defjvp(lambda primals, tangents: jax.jvp(decompose, primals, tangents))
    return functools.wraps(decompose)(call)


@_matrix_by_matrix
def eigh(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ascending eigenvalues and orthonormal eigenvectors of symmetric matrices.

    Args:
      a: `[M, n, n]`.

    Returns:
      `[M, n]` and `[M, n, n]`.

    Examples:
      >>> eigh(jnp.diag(jnp.asarray([3.0, 2.0]))[None])[0].tolist()
      [[2.0, 3.0]]
    """
    return tuple(jnp.linalg.eigh(a, symmetrize_input=False))


@_matrix_by_matrix
def orthonormal_columns(x: jax.Array) -> jax.Array:
    """The first factor of the QR decomposition.

    Args:
      x: `[M, n, n]`.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> jnp.abs(orthonormal_columns(jnp.asarray([[[2.0, 1.0], [0.0, 3.0]]]))).tolist()
      [[[1.0, 0.0], [0.0, 1.0]]]
    """
    return jnp.linalg.qr(x)[0]


@_matrix_by_matrix
def cholesky(a: jax.Array) -> jax.Array:
    """Lower triangular `L` with `L L^T = A`; NaN where A is not positive definite.

    Args:
      a: `[M, n, n]`, symmetric.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> cholesky(jnp.full((1, 1, 1), 4.0)).item()
      2.0
    """
    return lax.linalg.cholesky(a, symmetrize_input=False)


@_matrix_by_matrix
def solve_triangular(m: jax.Array, x: jax.Array) -> jax.Array:
    """`X M^(-T)`.

    Args:
      m: `[M, n, n]`, lower triangular.
      x: `[M, n, n]`.

    Returns:
      `[M, n, n]`.

    Examples:
      >>> solve_triangular(jnp.full((1, 1, 1), 2.0), jnp.ones((1, 1, 1))).item()
      0.5
    """
    return lax.linalg.triangular_solve(m, x, left_side=False, lower=True, transpose_a=True)


@_matrix_by_matrix
def solve_positive(a: jax.Array, b: jax.Array) -> jax.Array:
    """`A^(-1) B` by Cholesky's decomposition; NaN where A is not positive definite.

    Args:
      a: `[M, n, n]`, symmetric.
      b: `[M, n, k]`.

    Returns:
      `[M, n, k]`.

    Examples:
      >>> solve_positive(jnp.full((1, 1, 1), 4.0), jnp.ones((1, 1, 1))).item()
      0.25
    """
    factor = lax.linalg.cholesky(a, symmetrize_input=False)
    half = lax.linalg.triangular_solve(factor, b, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)

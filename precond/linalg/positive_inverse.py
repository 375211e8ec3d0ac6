"""Invert symmetric positive definite matrices."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.lapack import cholesky, solve_triangular
from precond.linalg.precision import dot_precision

__all__ = ["positive_inverse", "swept_inverse"]

_PANEL = 128  # the side of the arrays that a TPU multiplies


def positive_inverse(a: jax.Array) -> jax.Array:
    """Invert matrices by their Cholesky decomposition, and large ones on TPUs by `swept_inverse`.

    XLA unrolls a Cholesky decomposition for TPUs, so that the program grows with the matrix.

    Args:
      a: symmetric matrices, `[M, n, n]`.

    Returns:
      `[M, n, n]`, symmetric to the last bit; NaN if A is not positive definite.

    Examples:
      >>> positive_inverse(jnp.full((1, 1, 1), 4.0)).item()
      0.25
    """
    if a.shape[-1] <= _PANEL:
        return _by_cholesky(a)
    return lax.platform_dependent(a, tpu=swept_inverse, default=_by_cholesky)


def _by_cholesky(a: jax.Array) -> jax.Array:
    half = _half_inverse(a)
    return jnp.einsum("mij,mkj->mik", half, half, precision=dot_precision())


def _half_inverse(a: jax.Array) -> jax.Array:
    """Return `L^(-T)`, where `A = L L^T`."""
    return solve_triangular(cholesky(a), jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape))


def swept_inverse(a: jax.Array) -> jax.Array:
    r"""Invert matrices by the sweep operator, a symmetric form of Gauss-Jordan elimination, 128 rows at a time.

    Let $D$ be the next square block of 128 rows on the diagonal, $R$ its rows without it, and $B$ all entries outside
    of these rows and columns. A sweep replaces

    $$D \to -D^{-1}, \qquad R \to D^{-1} R, \qquad B \to B - R^\top D^{-1} R$$

    After a sweep of every block the matrix is $-A^{-1}$. Products are made with the Cholesky factor of $D$, since those
    with $D^{-1}$ would lose twice as many digits. The loop is one program for any number of blocks.

    Args:
      a: as in `positive_inverse`.

    Returns:
      As `positive_inverse`.

    Reference:
      Goodnight, A Tutorial on the SWEEP Operator, 1979.

    Examples:
      >>> swept_inverse(4 * jnp.eye(3)[None])[0, 0].tolist()
      [0.25, 0.0, 0.0]
    """
    n = a.shape[-1]
    more = -n % _PANEL
    corner = jnp.pad(jnp.eye(more, dtype=a.dtype), (n, 0))
    product = functools.partial(jnp.einsum, precision=dot_precision())

    def sweep(i: jax.Array, x: jax.Array) -> jax.Array:
        place = i * _PANEL
        rows = lax.dynamic_slice_in_dim(x, place, _PANEL, 1)
        half = _half_inverse(lax.dynamic_slice_in_dim(rows, place, _PANEL, 2))
        root = product("mji,mjk->mik", half, rows)
        swept = product("mij,mjk->mik", half, root)
        x = x - product("mji,mjk->mik", root, root)
        x = lax.dynamic_update_slice_in_dim(x, swept, place, 1)
        x = lax.dynamic_update_slice_in_dim(x, jnp.swapaxes(swept, 1, 2), place, 2)
        zero = jnp.zeros_like(place)
        return lax.dynamic_update_slice(x, -product("mij,mkj->mik", half, half), (zero, place, place))

    whole = jnp.pad(a, ((0, 0), (0, more), (0, more))) + corner
    x = lax.fori_loop(0, (n + more) // _PANEL, sweep, whole)[:, :n, :n]
    return -(x + jnp.swapaxes(x, 1, 2)) / 2

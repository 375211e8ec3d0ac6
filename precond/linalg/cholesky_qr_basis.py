"""Take SOAP's step of orthogonal iteration by products, Cholesky factors and triangular solves, without QR."""

import jax
import jax.numpy as jnp

from precond.linalg.lapack import cholesky, solve_triangular
from precond.linalg.products import product, symmetric
from precond.linalg.take_columns import take_columns

__all__ = ["cholesky_qr_basis"]


def _orthonormal(x: jax.Array, shift: float) -> jax.Array:
    """Return `X M^(-T)` with `M M^T = X^T X + shift I`: orthonormal columns that span the same flag of subspaces."""
    square = product(jnp.swapaxes(x, 1, 2), x) + shift * jnp.eye(x.shape[-1], dtype=x.dtype)
    return solve_triangular(cholesky(square), x)


def cholesky_qr_basis(a: jax.Array, basis: jax.Array) -> jax.Array:
    r"""Take the step of `qr_basis` by Cholesky decompositions and products of matrices.

    Plain CholeskyQR of $A Q$ would decompose $Q^\top A^2 Q$, whose condition is the square of A's, and break down. Let
    $S = Q^\top A Q + \epsilon I = L L^\top$, with columns in the order of falling Rayleigh quotients. (In the end, each
    column returns to its place.) It is enough to decompose the factor L, since

    $$L = U M^\top, \quad M M^\top = L^\top L \quad\Longrightarrow\quad S = U \, (L M)^\top,$$

    so U is the orthonormal factor of S, too, and $Q U$ is that of $A Q$. If S is nearly diagonal, the columns of L
    (scaled to length 1) are nearly orthonormal at any condition of A. A second CholeskyQR, of $Q U$ itself, leaves no
    error but rounding. The shift $\epsilon$ is n units of rounding of the largest eigenvalue. With it the decomposition
    succeeds for every matrix. It slows convergence down for eigenvalues that are as small as the shift.

    Args:
      a: symmetric positive semi-definite matrices, `[M, n, n]`, at any scale.
      basis: the bases, `[M, n, n]`, in orthonormal columns.

    Returns:
      `[M, n, n]`, orthonormal columns; column j continues column j. In exact arithmetic and without the shift they
      would be the columns of `qr_basis` up to sign.

    Reference:
      Fukaya et al., Shifted Cholesky QR for computing the QR factorization of ill-conditioned matrices, 2020.

    Examples:
      >>> jnp.abs(
      ...     cholesky_qr_basis(jnp.diag(jnp.asarray([1.0, 2.0]))[None], jnp.eye(2)[None])
      ... )[0].round(5).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    largest = jnp.max(jnp.abs(a), axis=(1, 2), keepdims=True)
    moved = product(a / jnp.where(largest > 0, largest, 1), basis)
    quotients = jnp.sum(basis * moved, axis=1)
    order = jnp.argsort(-quotients, axis=1)
    ordered, moved = take_columns(basis, order), take_columns(moved, order)
    shift = a.shape[-1] * float(jnp.finfo(a.dtype).eps)
    top = jnp.max(quotients, axis=1)[:, None, None]
    ridge = shift * jnp.where(top > 0, top, 1) * jnp.eye(a.shape[-1], dtype=a.dtype)
    s = symmetric(product(jnp.swapaxes(ordered, 1, 2), moved)) + ridge
    factor = cholesky(s)
    factor = factor / jnp.linalg.norm(factor, axis=1, keepdims=True)
    # The first is shifted, so that it cannot fail; after it the columns are orthonormal enough without a shift.
    orthonormal = _orthonormal(product(ordered, _orthonormal(factor, shift)), 0.0)
    return take_columns(orthonormal, jnp.argsort(order, axis=1))

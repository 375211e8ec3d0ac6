"""Choose by a value what brings singular values nearer to 1 before the first polynomial."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import described
from precond.linalg import batch_norm, largest_eigenvalue

__all__ = ["Rescaling", "almost_orthogonal", "schatten", "spectral"]


class Rescaling(NamedTuple):
    """Say by what a matrix is multiplied before the first polynomial.

    Attributes:
      name: what the user types to get it, for errors.
      factor: a function of the Gram matrices of the shorter side, `[N, m, m]`, of matrices of Frobenius norm 1. It
        returns numbers that multiply the m rows or columns of this side, `[N, m]`, or each matrix, `[N, 1]`. No
        singular value may become larger than 1, but for rounding, and zeros must stay zeros.
    """

    name: str
    factor: Callable[[jax.Array], jax.Array]

    def __repr__(self) -> str:
        """Return what the user types to get it."""
        return self.name


def _inverse_root(x: jax.Array) -> jax.Array:
    """Return 1 by the root of positive numbers, and 0 for zeros."""
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** -0.5, 0)


@described()
def schatten() -> Rescaling:
    r"""Divide by the Schatten norm of order 4, which costs nothing.

    $$X \leftarrow X / \|X X^\top\|_F^{1/2}$$

    The Gram matrix is that of the first step. The largest singular value is not above this norm, and this norm is not
    above the Frobenius norm. So small singular values begin nearer to 1.

    Returns:
      A value for `rescale=` of `precond.orthogonal.newton_schulz`.

    Reference:
      Grishina et al., Accelerating Newton-Schulz Iteration for Orthogonalization via Chebyshev-type Polynomials, 2025.

    Examples:
      >>> round(schatten().factor(jnp.asarray([[[0.5, 0.0], [0.0, 0.5]]])).item(), 4)
      1.1892
    """
    return Rescaling("schatten()", lambda a: _inverse_root(batch_norm(a, 1)[:, :, 0]))


@described()
def spectral() -> Rescaling:
    """Divide by the largest singular value.

    It is found by products of the Gram matrix with vectors, or with itself where it is small.

    Returns:
      A value for `rescale=` of `precond.orthogonal.newton_schulz`.

    Examples:
      >>> round(spectral().factor(jnp.asarray([[[0.25, 0.0], [0.0, 0.75]]])).item(), 4)
      1.1547
    """
    return Rescaling("spectral()", lambda a: _inverse_root(largest_eigenvalue(_as_real(a))[:, None]))


def _as_real(a: jax.Array) -> jax.Array:
    """Return a real symmetric matrix with the eigenvalues of a Hermitian one, each of them twice."""
    if not jnp.iscomplexobj(a):
        return a
    return jnp.block([[a.real, -a.imag], [a.imag, a.real]])


@described()
def almost_orthogonal() -> Rescaling:
    r"""Divide each row of the shorter side by a bound of its own, which costs nothing.

    $$X \leftarrow D^{-1/2} X, \qquad D = \mathrm{diag}\Big(\sum_j |X X^\top|_{ij}\Big)$$

    Rows that are nearly orthogonal to the others become nearly orthonormal at once. But the result is the polar factor
    of the rescaled matrix, and not of X.

    Returns:
      A value for `rescale=` of `precond.orthogonal.newton_schulz`.

    Reference:
      Boissin et al., Turbo-Muon: Accelerating Orthogonality-Based Optimization with Pre-Conditioning, 2025.

    Examples:
      >>> almost_orthogonal().factor(jnp.asarray([[[0.25, 0.0], [0.0, 1.0]]])).tolist()
      [[2.0, 1.0]]
    """
    return Rescaling("almost_orthogonal()", lambda a: _inverse_root(jnp.sum(jnp.abs(a), axis=2)))

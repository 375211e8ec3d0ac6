"""By which algorithm a root or a basis is computed, as a value that the user names."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_whole
from precond.linalg import coupled_newton, eigen_basis, eigh_root, largest_eigenvalue, qr_basis

__all__ = ["Method", "eigh", "newton", "qr"]

Ridge = Callable[[jax.Array], jax.Array]


class Method(NamedTuple):
    """How roots and bases are computed.

    Attributes:
      name: as the user typed it, for errors.
      root: from factors `[M, d, d]`, their powers and a ridge (a function of the largest eigenvalue, `[M]` to `[M]`)
        to `(A + ridge I)^(-power)`; None if the method has none.
      basis: from factors, the basis before and whether it is the first, to an orthonormal basis; None likewise.
      mixes_powers: whether `root` takes an array of powers `[M]`, or one power for all.
    """

    name: str
    root: Callable[[jax.Array, Any, Ridge], jax.Array] | None
    basis: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None
    mixes_powers: bool


def eigh() -> Method:
    """The symmetric eigendecomposition, for roots and bases.

    Accurate at any condition number that the dtype can hold; hard to beat on CPU.

    Examples:
      >>> from precond import eigenbasis, inverse_root
      >>> root, basis = inverse_root(method=eigh()), eigenbasis(method=eigh())
    """
    return Method("eigh()", eigh_root, lambda a, basis, first: eigen_basis(a), mixes_powers=True)


def newton(*, iterations: int = 32, tolerance: float | None = None) -> Method:
    """The coupled Newton iteration: matrix products alone, for roots of any rational power.

    Args:
      iterations: a fixed number; 32 reach a condition number of 1e8.
      tolerance: a matrix whose `max |M - I|` is below this stays as it is; None is 8 units of rounding.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> from precond import inverse_root
      >>> root = inverse_root(method=newton(iterations=24))
    """
    check_whole("iterations", iterations, least=1)
    if tolerance is not None:
        check_number("tolerance", tolerance, 0)

    def root(a: jax.Array, power: float | Fraction, ridge: Ridge) -> jax.Array:
        fraction = Fraction(power).limit_denominator(64)
        damp = ridge(largest_eigenvalue(a))
        if a.shape[-1] == 1:  # exact
            return (a + damp[:, None, None]) ** -float(fraction)
        return coupled_newton(a, fraction, damp, iterations=iterations, tolerance=tolerance)

    return Method("newton()", root, None, mixes_powers=False)


def qr() -> Method:
    """SOAP's refresh of a basis: `eigh` the first time, then one QR decomposition of `A Q`; bases only.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=qr())
    """

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        if a.shape[-1] == 1:
            return jnp.ones_like(a)
        return jax.lax.cond(first, lambda: eigen_basis(a), lambda: qr_basis(a, old))

    return Method("qr()", None, basis, mixes_powers=False)

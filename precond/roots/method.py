"""By which algorithm a root or a basis is computed, as a value that the user names."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_whole
from precond.linalg import (
    cholesky_qr_basis,
    coupled_newton,
    eigen_basis,
    eigh_root,
    largest_eigenvalue,
    qr_basis,
    renew_worst,
    rotate_basis,
)

__all__ = ["Method", "cholesky_qr", "eigh", "newton", "qr", "rotations"]

Ridge = Callable[[jax.Array], jax.Array]
Basis = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


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
    basis: Basis | None
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


def _following(step: Callable[[jax.Array, jax.Array], jax.Array]) -> Basis:
    """`eigh` the first time, then a step from the basis before."""

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        if a.shape[-1] == 1:
            return jnp.ones_like(a)
        return jax.lax.cond(first, lambda: eigen_basis(a), lambda: step(a, old))

    return basis


def qr() -> Method:
    """SOAP's refresh of a basis: `eigh` the first time, then one QR decomposition of `A Q`; bases only.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=qr())
    """
    return Method("qr()", None, _following(qr_basis), mixes_powers=False)


def cholesky_qr() -> Method:
    """The step of `precond.qr`, by Cholesky decompositions and products in place of a QR decomposition.

    For devices on which these are fast and QR is not; elsewhere `precond.qr` is the same and simpler.

    Reference:
      See `precond.linalg.cholesky_qr_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=cholesky_qr())
    """
    return Method("cholesky_qr()", None, _following(cholesky_qr_basis), mixes_powers=False)


def rotations(*, sweeps: int = 2, tolerance: float = 0.1, group: int | None = 8) -> Method:
    """`eigh` the first time, then rotations of the basis by matrix products alone; bases only.

    Rotations follow statistics that drift, not those that jump. So after every refresh the bases are measured, and of
    every `group` matrices in a row the one whose basis is worst is decomposed by `eigh`, and its basis replaced if it
    is above the tolerance. The number of decompositions is the same in every step. Groups are counted from the first
    of the matrices that are refreshed together.

    For devices that multiply much faster than they decompose; on CPU `eigh` itself is cheaper.

    Args:
      sweeps: 2 are more accurate than `precond.qr` on all but the fastest drift, and 1 where the statistics have a
        decay of 0.99 or more.
      tolerance: on `precond.linalg.scaled_off_diagonal`; 0.1 is an error of 2 to 5 % in `A^(-1/4)`.
      group: one in so many is decomposed; None decomposes none after the first time.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      See `precond.linalg.rotate_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=rotations(sweeps=1))
    """
    check_whole("sweeps", sweeps, least=1)
    check_number("tolerance", tolerance, 0)
    if group is not None:
        check_whole("group", group, least=1)

    def step(a: jax.Array, old: jax.Array) -> jax.Array:
        new = rotate_basis(a, old, sweeps)
        return new if group is None else renew_worst(a, new, tolerance, group)

    return Method("rotations()", None, _following(step), mixes_powers=False)

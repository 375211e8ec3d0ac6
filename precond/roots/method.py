"""By which algorithm a root or a basis is computed, as a value that the user names."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.arguments import check_number, check_whole
from precond.control_flow import run_if
from precond.linalg import (
    cholesky_inverse,
    cholesky_qr_basis,
    composite_root,
    coupled_newton,
    eigen_basis,
    eigh_root,
    largest_eigenvalue,
    qr_basis,
    renew_worst,
    rotate_basis,
)
from precond.roots.root import Power
from precond.scopes import named

__all__ = [
    "Method",
    "Solve",
    "Solved",
    "by_platform",
    "cholesky",
    "cholesky_qr",
    "composite",
    "eigh",
    "newton",
    "qr",
    "rotations",
]

Ridge = Callable[[jax.Array], jax.Array]
Basis = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Solved(NamedTuple):
    """Roots, and what is known of them.

    Attributes:
      root: `(A + ridge I)^(-power)`, `[M, d, d]`.
      largest: eigenvalues of A, `[M]`.
      ridge: `[M]`.
      condition: numbers of `A + ridge I`, `[M]`.
    """

    root: jax.Array
    largest: jax.Array
    ridge: jax.Array
    condition: jax.Array


Solve = Callable[[jax.Array, Power, Ridge, float], Solved]


class Method(NamedTuple):
    """How roots and bases are computed.

    Attributes:
      name: as the user typed it, for errors.
      root: from factors `[M, d, d]` of magnitude about 1, their power, a ridge (a function of the largest eigenvalue,
        `[M]` to `[M]`) and what it is at least, to what is `Solved`; None if the method has none.
      basis: from factors, the basis before and whether it is the first, to an orthonormal basis; None likewise.
    """

    name: str
    root: Solve | None
    basis: Basis | None


def _fraction(power: Power) -> Fraction:
    return Fraction(power).limit_denominator(64)


def _row_sum(a: jax.Array) -> jax.Array:
    """The largest row sum of each matrix, `[M]`: at least its largest eigenvalue."""
    return jnp.max(jnp.sum(jnp.abs(a), axis=2), axis=1)


def _condition(root: jax.Array, largest: jax.Array, power: Power) -> jax.Array:
    """From the largest eigenvalue of the root, which is the least one of the factor to the power."""
    return largest * largest_eigenvalue(root, steps=8) ** (1 / float(power))


def eigh() -> Method:
    """The symmetric eigendecomposition, for roots and bases.

    Accurate at any condition number that the dtype can hold; hard to beat on CPU.

    Examples:
      >>> from precond import eigenbasis, inverse_root
      >>> root, basis = inverse_root(method=eigh()), eigenbasis(method=eigh())
    """

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        del least
        out, values, added = eigh_root(a, float(power), ridge)
        largest, smallest = values[:, -1], jnp.maximum(values[:, 0], 0)
        return Solved(out, largest, added, (largest + added) / (smallest + added))

    return Method("eigh()", root, lambda a, basis, first: eigen_basis(a))


def composite() -> Method:
    """Composite minimax polynomials: matrix products alone, in the fewest steps, for roots of any rational power.

    The number of steps follows from what the damping is at least: 28 products for `A^(-1/4)` with `relative(1e-6)`.
    With a damping that is not known beforehand (`absolute`, or one that is injected) it is that of half the precision
    of the dtype more. In float32 above a condition number of 1e3 it is more accurate than LAPACK's `eigh`, which is
    up to 4.3 times as fast on CPU; on devices that multiply much faster than they decompose it is the one to use.

    Reference:
      See `precond.linalg.composite_root`.

    Examples:
      >>> from precond import inverse_root
      >>> root = inverse_root(method=composite())
    """

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        out, largest, added = composite_root(a, _fraction(power), ridge, least=least)
        return Solved(out, largest, added, _condition(out, largest + added, power))

    return Method("composite()", root, None)


def cholesky() -> Method:
    """The Cholesky decomposition, for inverses alone (`power=1`): a fraction of what `precond.eigh` costs.

    A matrix that rounding keeps from being positive definite has no inverse here, and its damping is then raised. The
    largest eigenvalue, which `precond.relative` damping asks for, is taken to be the largest row sum: never too small,
    and too large by the root of the matrix's size at most.

    Examples:
      >>> from precond import inverse
      >>> root = inverse(method=cholesky())
    """

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        del least
        if power != 1:
            raise ValueError(f"method=cholesky() computes inverses, not the power of -{power}: use precond.eigh().")
        largest = _row_sum(a)
        damping = ridge(largest)
        eye = jnp.eye(a.shape[-1], dtype=a.dtype)
        damped = a + damping[:, None, None] * eye
        out = cholesky_inverse(damped)
        return Solved(out, largest, damping, _row_sum(out) * _row_sum(damped))

    return Method("cholesky()", root, None)


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

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        del least
        largest = largest_eigenvalue(a)
        damping = ridge(largest)
        out = coupled_newton(a, _fraction(power), damping, iterations=iterations, tolerance=tolerance)
        return Solved(out, largest, damping, _condition(out, largest + damping, power))

    return Method("newton()", root, None)


def by_platform(*, cpu: Method | None = None, others: Method | None = None) -> Method:
    """One method on CPU and another on everything else, chosen where the program is lowered.

    Args:
      cpu: None is `precond.eigh()`, which at the default damping is the fastest there at sizes from 128 to 1024.
      others: None is `precond.composite()`, which has nothing but matrix products.

    Raises:
      ValueError: where one of them computes no roots; for a basis, name one method.

    Examples:
      >>> from precond import inverse_root
      >>> root = inverse_root(method=by_platform(others=newton()))
    """
    cpu, others = eigh() if cpu is None else cpu, composite() if others is None else others
    first, second = cpu.root, others.root
    if first is None or second is None:
        raise ValueError(f"by_platform(cpu={cpu.name}, others={others.name}): one of them computes no inverse roots.")

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        return jax.lax.platform_dependent(
            a,
            cpu=lambda x: first(x, power, ridge, least),
            default=lambda x: second(x, power, ridge, least),
        )

    return Method("by_platform()", root, None)


def _following(step: Callable[[jax.Array, jax.Array], jax.Array]) -> Basis:
    """`eigh` the first time, then a step from the basis before."""

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        def begin() -> jax.Array:
            with named("first"):
                return eigen_basis(a)

        return jnp.ones_like(a) if a.shape[-1] == 1 else run_if(first, begin, lambda: step(a, old))

    return basis


def qr() -> Method:
    """SOAP's refresh of a basis: `eigh` the first time, then one QR decomposition of `A Q`; bases only.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=qr())
    """
    return Method("qr()", None, _following(qr_basis))


def cholesky_qr() -> Method:
    """The step of `precond.qr`, by Cholesky decompositions and products in place of a QR decomposition.

    For devices on which these are fast and QR is not; elsewhere `precond.qr` is the same and simpler.

    Reference:
      See `precond.linalg.cholesky_qr_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=cholesky_qr())
    """
    return Method("cholesky_qr()", None, _following(cholesky_qr_basis))


def rotations(*, sweeps: int = 2, tolerance: float = 0.1, group: int | None = 8) -> Method:
    """`eigh` the first time, then rotations of the basis by matrix products alone; bases only.

    Rotations follow statistics that drift, not those that jump. So after every refresh the bases are measured, and of
    every `group` matrices in a row the one whose basis is worst is decomposed by `eigh`, and its basis replaced if it
    is above the tolerance. The number of decompositions is the same in every step. Groups are counted from the first
    of the matrices that are refreshed together.

    For devices that multiply much faster than they decompose; on CPU `eigh` itself is cheaper.

    Args:
      sweeps: 2 are more accurate than `precond.qr` on all but the fastest drift; 1 on synthetic statistics with a decay
        of 0.99 or more, and about as accurate on recorded ones.
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

    return Method("rotations()", None, _following(step))

"""Compute inverse roots by composite minimax polynomials: by matrix products alone, in the fewest steps."""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.largest_eigenvalue import largest_eigenvalue
from precond.linalg.minimax_steps import LEAST, TIGHTEST, Step, minimax_steps
from precond.linalg.products import matrix_power, product, symmetric

__all__ = ["composite_root"]

_SMALL = 256  # rows of a matrix whose steps the compiler may see one by one
_ABOVE = 1.1  # times the estimate of the largest eigenvalue is a bound of it


def _polynomial(m: jax.Array, coefficients: Sequence[Any]) -> jax.Array:
    identity = jnp.eye(m.shape[-1], dtype=m.dtype)
    constant, slope, *square = coefficients
    h = constant * identity + slope * m
    return h + square[0] * product(m, m) if square else h


def _congruence(h: jax.Array, p: int, m: jax.Array) -> jax.Array:
    """Return `H^p M` for even p, with half of the factors H on each side.

    The matrices commute but for rounding. If all factors stood on one side, `H^p` would multiply the rounding on its
    way from small eigenvalues to large ones, and the final residual would be twenty times as large.
    """
    half = matrix_power(h, p // 2)
    return product(product(half, m), half)


def _iterated(
    rows: Sequence[Sequence[float]], p: int, carry: tuple[jax.Array, ...], *, unroll: bool
) -> tuple[jax.Array, ...]:
    """Take steps of one degree in a loop over their coefficients, so that the compiler sees one step alone."""
    table = jnp.asarray(rows, carry[0].dtype)

    def step(i: jax.typing.ArrayLike, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, m, h = carry
        m = _congruence(h, p, m)
        h = _polynomial(m, list(table[i]))
        return product(x, h), m, h

    return lax.fori_loop(0, len(rows), step, carry, unroll=unroll)


def _take_steps(steps: Sequence[Step], p: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Take steps, with one loop for each degree.

    The compiler for TPUs takes about 5 seconds for every product of large matrices at full precision. So all steps on
    large matrices are made steps of one degree, by zeros. Products of small ones compile quickly, but run a fifth
    slower in a loop.
    """
    small = carry[0].shape[-1] <= _SMALL
    most = max((len(step.coefficients) for step in steps), default=0)
    rows = [[*step.coefficients, *[0.0] * (0 if small else most - len(step.coefficients))] for step in steps]
    for _, alike in itertools.groupby(rows, len):
        carry = _iterated(list(alike), p, carry, unroll=small)
    return carry


def composite_root(
    a: jax.Array,
    power: Fraction,
    ridge: Callable[[jax.Array], jax.Array],
    *,
    least: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute `(A + ridge I)^(-power)` of symmetric positive semi-definite matrices, for a rational power q/p.

    The iteration starts from `M_0 = (A + ridge I) / s`, with s a bound of the largest eigenvalue, and from `X_0 = I`.
    Each step has the best polynomial h for the interval that contains the eigenvalues of M (`minimax_steps`)::

        H = h(M),    X <- X H,    M <- H^p M

    After the last step M is the identity, and `s^(-1/p) X` to the power q is the root. (If p is odd, both p and q are
    doubled.) The interval is known beforehand, since the ridge bounds the least eigenvalue. So the number of steps is
    fixed, and nothing is decomposed. At a condition number of 1e6 and p = 4 there are 28 products, or 30 of matrices
    above 256; the coupled Newton iteration takes about 80.

    If the ridge is smaller than rounding, a matrix can have an eigenvalue below the interval. Its root is then wrong or
    not finite, so check roots by `precond.linalg.root_residual`.

    Args:
      a: the matrices A, `[M, n, n]`, of magnitude about 1.
      power: a positive fraction.
      ridge: a function from the largest eigenvalues, `[M]`, to the numbers that are added to the diagonals, `[M]`.
      least: a lower bound of the ridge, relative to the largest eigenvalue. Below a sixteenth of the unit of rounding,
        or below 1e-12, it counts as the larger of these two.

    Returns:
      The roots, `[M, n, n]` and symmetric; estimates of the largest eigenvalues, and the ridges, `[M]`.

    Reference:
      Amsel et al., The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm, 2025,
      Theorem 3.1 (for the matrix sign: that greedy steps are optimal); Guo and Higham, A Schur-Newton method for the
      matrix p-th root and its inverse, 2006 (the coupled form).

    Examples:
      >>> root = composite_root(
      ...     jnp.full((1, 1, 1), 3.0),
      ...     Fraction(1, 2),
      ...     lambda largest: largest / 3,
      ...     least=1e-2,
      ... )[0]
      >>> round(root.item(), 5)
      0.5
    """
    p, q, rounding = power.denominator, power.numerator, float(jnp.finfo(a.dtype).eps)
    if p % 2:  # the square of the root of twice the order: _congruence needs an even p
        p, q = 2 * p, 2 * q
    a = symmetric(a)
    largest = largest_eigenvalue(a)
    damping = ridge(largest)
    bound = (_ABOVE * largest + damping)[:, None, None]
    bound = jnp.where(bound > 0, bound, 1)
    # Below a sixteenth of the unit of rounding an eigenvalue is rounding error of the largest one, so that more steps
    # for it are useless. The interval must not be empty, and a step of products adds a few units of rounding.
    low = min(max(least, rounding / 16, LEAST) / (_ABOVE + least), 0.9)
    steps = minimax_steps(p, low, max(8 * rounding, TIGHTEST))
    m = (a + damping[:, None, None] * jnp.eye(a.shape[-1], dtype=a.dtype)) / bound
    h = _polynomial(m, steps[0].coefficients)
    x, *_ = _take_steps(steps[1:], p, (h, m, h))
    # Symmetrising once is enough: doing it in every step is not more accurate, and a sixth slower on CPU.
    return symmetric(matrix_power(x * bound ** (-1 / p), q)), largest, damping

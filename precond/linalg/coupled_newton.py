"""Compute inverse roots by the coupled Newton iteration: by matrix products alone."""

from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import lax

from precond.linalg.products import matrix_power, product, symmetric

__all__ = ["coupled_newton"]


def coupled_newton(
    a: jax.Array,
    power: Fraction,
    ridge: jax.Array,
    *,
    iterations: int = 32,
    tolerance: float | None = None,
) -> jax.Array:
    """Compute `(A + ridge I)^(-power)` of symmetric positive semi-definite matrices, for a rational power q/p.

    With `M_0 = z (A + ridge I)`, `X_0 = z^(1/p) I` and `z = (1 + p) / (2 |A + ridge I|_F)`::

        N = (1 + 1/p) I - M / p,    M <- N^p M,    X <- X N

    The iteration goes on until `M` is the identity, and `X^q` is the root. All matrices take the same number of
    iterations. A matrix stays as it is as soon as its `max |M - I|` is below the tolerance. It also stays if its
    `|M - I|_F` has begun to grow by a fifth, since rounding has then taken over. (The largest entry may grow in the
    first steps, but the norm may not.) Both iterates are symmetrised in every step; otherwise they would drift at
    condition numbers above 1e6.

    A small `max |M - I|` shows that the iteration has ended, but not that `X` is right: in float32, at a condition
    number of 1e8, it is 2e-7 while the root is wrong by a half.

    Args:
      a: the matrices A, `[M, n, n]`.
      power: a positive fraction.
      ridge: the numbers that are added to the diagonals, `[M]`. The sums must be positive definite.
      iterations: the number of iterations; the default is enough for a condition number of 1e8. Each takes 2 products,
        and `log2(p)` to `2 log2(p)` more.
      tolerance: a bound of `max |M - I|`; None is 8 units of rounding (1e-6 in float32).

    Returns:
      `[M, n, n]`, symmetric.

    Reference:
      Guo and Higham, A Schur-Newton method for the matrix p-th root and its inverse, 2006; Anil et al., Scalable
      Second Order Optimization for Deep Learning, 2020.

    Examples:
      >>> coupled_newton(jnp.full((1, 1, 1), 3.0), Fraction(1, 2), jnp.ones(1)).round(
      ...     5
      ... ).item()
      0.5
    """
    tolerance = 8 * float(jnp.finfo(a.dtype).eps) if tolerance is None else tolerance
    p, identity = power.denominator, jnp.eye(a.shape[-1], dtype=a.dtype)
    damped = symmetric(a) + ridge[:, None, None] * identity
    z = ((1 + p) / (2 * jnp.linalg.norm(damped, axis=(1, 2))))[:, None, None]

    def distance(m):
        return jnp.linalg.norm(m - identity, axis=(1, 2), keepdims=True)

    def step(_, carry):
        m, x, going = carry
        n = (1 + 1 / p) * identity - m / p
        new_m = symmetric(product(matrix_power(n, p), m))
        new_x = symmetric(product(x, n))
        going &= jnp.max(jnp.abs(m - identity), axis=(1, 2), keepdims=True) > tolerance
        going &= distance(new_m) < 1.2 * distance(m)
        return jnp.where(going, new_m, m), jnp.where(going, new_x, x), going

    carry = (z * damped, z ** (1 / p) * identity, z >= 0)
    return symmetric(matrix_power(lax.fori_loop(0, iterations, step, carry)[1], power.numerator))

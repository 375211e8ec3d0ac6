"""Estimate the residual of a root without computing another root."""

from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precond.linalg.precision import computing_in
from precond.linalg.products import product

__all__ = ["orthogonality_residual", "root_residual"]

# With so many vectors the estimate is the norm to within a factor of 2; with 8 it was not, for one matrix of the slow
# tests. They cost little more than one vector, since each matrix is read once for all of them.
_PROBES = 16


def _probes(a: jax.Array) -> jax.Array:
    """Return fixed vectors of random signs, of norm 1, `[M, n, 16]`."""
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (a.shape[-1], _PROBES)) / np.sqrt(a.shape[-1])
    return jnp.broadcast_to(jnp.asarray(signs, a.dtype), (a.shape[0], *signs.shape))


def _norm(factors: Sequence[jax.Array], transposed: Sequence[jax.Array] | None = None) -> jax.Array:
    """Estimate the spectral norm of a product of matrices (the first acts first) minus the identity.

    It applies this residual to unit vectors, and then its transpose to what comes out. The transpose of a symmetric
    product is the product itself, and is None here. Then both turns are in a loop: the compiler for TPUs takes two
    seconds for every product with the vectors.
    """

    def residual(v: jax.Array, matrices: Sequence[jax.Array]) -> jax.Array:
        w = v
        with computing_in(lax.Precision.HIGHEST):
            for matrix in matrices:
                w = product(matrix, w)
        return w - v

    def turn(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v, largest = carry
        for matrices in (factors,) if transposed is None else (factors, transposed):
            w = residual(v, matrices)
            size = jnp.linalg.norm(w, axis=1, keepdims=True)
            v, largest = w / jnp.where(size > 0, size, 1), jnp.maximum(largest, jnp.max(size, axis=(1, 2)))
        return v, largest

    probes = _probes(factors[0])
    for matrix in factors:  # so that under shard_map the probes vary over the axes over which the matrices do
        probes += jnp.zeros_like(matrix[:, :, :1])
    return lax.fori_loop(0, 2 if transposed is None else 1, turn, (probes, jnp.zeros_like(probes[:, 0, 0])))[1]


def _order(power: Fraction) -> str:
    """Return p letters x and q letters a in an order in which the first of them multiply to nearly a power 0 of A.

    A product such as `A^3` would round to eps of its largest entries, and the factors X that follow would enlarge
    this rounding by the cube of the condition number.
    """
    order, exponent, left = "", Fraction(0), {"x": power.denominator, "a": power.numerator}
    step = {"a": Fraction(1), "x": -power}
    while any(left.values()):
        best = min((name for name in step if left[name]), key=lambda name: abs(exponent + step[name]))
        exponent += step[best]
        left[best] -= 1
        order += best
    return order


def root_residual(x: jax.Array, a: jax.Array, power: Fraction) -> jax.Array:
    r"""Estimate $\|X^p A^q - I\|_2$ for $X \approx A^{-q/p}$ from 16 vectors, in `O(n^2)`.

    The factors are multiplied in an order that keeps rounding small: `X X A X X` for a power of 1/4. A root commutes
    with its matrix, so that every order has the same product; the estimate sees an X that does not commute as wrong.

    The residual does not depend on the scale of A. The quantities that iterations themselves compute do not show it: in
    float32, at a condition number of 1e8, coupled Newton's `max |M - I|` is 2e-7 while the residual is 0.7. The
    estimate takes two steps of the power iteration on the residual operator from random signs. So it finds errors that
    are spread over all directions as well as a single bad one. On matrices of known spectrum it is the norm to within a
    factor of 2, down to rounding.

    Args:
      x: symmetric matrices, `[M, n, n]`.
      a: the damped matrices of which x should be the root, `[M, n, n]`.
      power: the power q/p, which is positive.

    Returns:
      `[M]`; NaN or infinity if x is not finite.

    Examples:
      >>> x, a = jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 4.4)
      >>> round(root_residual(x, a, Fraction(1, 2)).item(), 4)
      0.1
    """
    order = _order(power)
    factors = [x if letter == "x" else a for letter in order]
    return _norm(factors, None if order == order[::-1] else factors[::-1])


def orthogonality_residual(basis: jax.Array) -> jax.Array:
    r"""Estimate $\|Q Q^\top - I\|_2$ as `root_residual` does.

    Args:
      basis: the bases, `[M, n, n]`.

    Returns:
      `[M]`; NaN or infinity if the basis is not finite.

    Examples:
      >>> orthogonality_residual(jnp.full((1, 1, 1), 2.0)).item()
      3.0
    """
    return _norm([jnp.swapaxes(basis, 1, 2), basis])

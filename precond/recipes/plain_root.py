"""Compute an inverse root as a reference does: of factors that are not scaled first."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.roots import Checked, Power, Root, accept, as_fraction, eigh, inverse_root
from precond.roots.powers import Powers

__all__ = ["Solution", "plain_root", "shifted"]


class Solution(NamedTuple):
    """Hold roots and their errors.

    Attributes:
      root: the roots, `[M, d, d]`.
      error: the error as the reference defines it, `[M]`.
      largest: the largest eigenvalues of the factors, or a bound of them, `[M]`.
      ridge: the ridge that was added to the factors, `[M]`.
    """

    root: jax.Array
    error: jax.Array
    largest: jax.Array
    ridge: jax.Array


Solve = Callable[[jax.Array, Fraction], Solution]


def plain_root(solve: Solve, *, power: Powers = None, tolerance: float = math.inf) -> Root:
    """Make `precond.inverse_root` with a solver that is given each factor as it is, not scaled to magnitude 1.

    The references are not invariant to the scale of the loss, and this follows them: for training, use
    `precond.inverse_root`.

    Args:
      solve: a function from factors `[M, d, d]` and their power to a `Solution`.
      power: as in `precond.inverse_root`.
      tolerance: a root whose error is above it, or NaN, or that is not finite, is refused, and the last one stays.

    Examples:
      >>> root = plain_root(
      ...     lambda a, power: Solution(1 / a, a[:, 0, 0] * 0, a[:, 0, 0], a[:, 0, 0] * 0),
      ...     power=1.0,
      ... )
      >>> factor = jnp.full((1, 1, 1), 4.0)
      >>> root.refresh(
      ...     factor, root.init(factor, (factor,)).derived[0], 1.0, True
      ... ).matrix.item()
      0.25
    """

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        del first
        root, error, largest, ridge = solve(factors, as_fraction(power))
        positive = jnp.where(largest > 0, largest, 1)
        condition = jnp.where(largest > 0, 1 + largest / jnp.where(ridge > 0, ridge, positive), 1)
        return accept(root, error, derived, tolerance, damping=ridge / positive, condition=condition)

    return inverse_root(power=power, method=eigh())._replace(refresh=refresh, padding=None)


def shifted(a: jax.Array, ridge: ArrayLike) -> jax.Array:
    """Return `A + ridge I`.

    Args:
      a: the matrices, `[M, d, d]` or `[d, d]`.
      ridge: a number.

    Examples:
      >>> shifted(jnp.ones((1, 1)), 1.0).item()
      2.0
    """
    return a + ridge * jnp.eye(a.shape[-1], dtype=a.dtype)

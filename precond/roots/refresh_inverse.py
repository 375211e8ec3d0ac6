"""Refresh roots that have one matrix for each axis: scale, damp, solve, check."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from precond.arguments import check_part
from precond.linalg import root_residual
from precond.roots.guard import Checked, accept, escalated_ridge
from precond.roots.methods.method import RootOf, RootResult
from precond.roots.root import Power, RootState, as_fraction, identity_like

__all__ = ["refresh_inverse", "whiten_by_matrix"]


def refresh_inverse(
    solve: RootOf,
    factors: jax.Array,
    old: Checked,
    power: Power,
    ridge: Callable[[jax.Array, jax.Array], jax.typing.ArrayLike],
    *,
    least: float,
    tolerance: float,
) -> Checked:
    """Compute `(A + ridge I)^(-power)`, and keep the old matrix where the new one is refused.

    A factor is divided by its largest entry before anything else, and its root is scaled back. So the root of c A is
    `c^(-power)` times that of A. The root of a zero factor is the identity.

    Args:
      solve: the function `precond.Method.root`.
      factors: the factors, `[M, d, d]`.
      old: the matrices in use.
      power: a positive number.
      ridge: a function from the largest and the mean eigenvalue of each factor, `[M]`, to the number that is added to
        its diagonal.
      least: a lower bound of the ridge, relative to the largest eigenvalue; 0 if nothing is known.
      tolerance: the largest residual that is accepted.

    Examples:
      >>> from precond.roots.guard import unchecked
      >>> from precond.roots.methods import eigh
      >>> factors = jnp.full((1, 1, 1), 3.0)
      >>> refresh_inverse(
      ...     eigh().root,
      ...     factors,
      ...     unchecked(factors),
      ...     0.5,
      ...     lambda largest, mean: 1.0,
      ...     least=0.0,
      ...     tolerance=0.5,
      ... ).matrix.item()
      0.5
    """
    peak = jnp.max(jnp.abs(factors), axis=(1, 2))
    empty, scale = peak == 0, jnp.where(peak == 0, 1, peak)
    a, mean = factors / scale[:, None, None], jnp.trace(factors, axis1=1, axis2=2) / factors.shape[-1]

    def scaled_ridge(largest: jax.Array) -> jax.Array:
        return escalated_ridge(jnp.asarray(ridge(largest * scale, mean)) / scale, largest, old)

    found = solve(a, power, scaled_ridge, least)
    check_part("the result of Method.root", found, RootResult, "RootResult(root, largest, damping, condition)")
    root, largest, added, condition = found
    damped = a + added[:, None, None] * identity_like(a)
    residual = jnp.where(empty, 0, root_residual(root, damped, as_fraction(power)))
    root = root * (scale ** -float(power))[:, None, None]
    root = jnp.where(empty[:, None, None], identity_like(root), root)
    used = jnp.where(empty, 0, added / jnp.where(empty, 1, largest))
    return accept(root, residual, old, tolerance, damping=used, condition=jnp.where(empty, 0, condition))


def whiten_by_matrix(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
    """Return the matrices in use, or zeros before the first refresh: `precond.Root.whiten` of such roots.

    Args:
      state: the state of the root.
      axis: the axis of the blocks, from 0.
      factor: the factor, which is not read.

    Examples:
      >>> from precond.roots.guard import unchecked
      >>> factor = jnp.ones((1, 1, 1))
      >>> whiten_by_matrix(RootState((unchecked(factor),), ()), 0, factor).item()
      0.0
    """
    del factor
    derived = state.derived[axis]
    return jnp.where(derived.health.known[:, None, None], derived.matrix, 0)

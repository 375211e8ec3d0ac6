"""Multiply every axis by the damped inverse of its factor: K-FAC's root."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described
from precond.linalg import multiply
from precond.linalg.align import on_axis
from precond.roots.guard import Checked, accept, escalated_ridge, unchecked
from precond.roots.methods import Method, cholesky
from precond.roots.padding import PADDING
from precond.roots.refresh_inverse import refresh_inverse, whiten_by_matrix
from precond.roots.root import Factor, Power, Root, RootState
from precond.trees import Leaf

__all__ = ["inverse"]


@described()
def inverse(damping: ArrayLike = 1e-3, *, method: Method | None = None, tolerance: float = 0.5) -> Root:
    r"""Multiply every axis of a block by the inverse of its damped factor, as K-FAC does.

    For axis i, and with k factors, that is $(F_i + \lambda^{1/k} I)^{-1}$.

    After `precond.balance`, which gives all factors of a block the same mean eigenvalue, this is K-FAC with factored
    Tikhonov damping. For a layer with the factors A of its inputs and G of its outputs, and $\pi^2 = n_A / n_G$ the
    ratio of their mean eigenvalues:

    $$V = (A + \pi \sqrt\lambda I)^{-1} \, \nabla W \, (G + \sqrt\lambda / \pi \, I)^{-1}$$

    A factor may be the diagonal of one, `[N, d]`.

    Args:
      damping: $\lambda$, in the units of the Fisher matrix.
      method: the method that computes roots: `precond.roots.cholesky()` (the default), or another one.
        `precond.composite()` takes only matrix products.
      tolerance: a bound of the residual, as in `precond.inverse_root`.

    Returns:
      A `Root`. Between refreshes the matrices stay as they are.

    Raises:
      ValueError, TypeError: for a negative number, or a method that computes no inverses.

    Reference:
      Martens and Grosse, 2015, section 6.3; Ba, Grosse and Martens, 2017, equations 3 and 10 to 12.

    Examples:
      >>> root, factor = inverse(damping=4.0), jnp.full((1, 1, 1), 3.0)
      >>> state = root.init(jnp.ones((1, 1)), (factor,))
      >>> # This is 1 / (3 + 4^(1/2)).
      >>> round(root.refresh(factor, state.derived[0], 2, jnp.asarray(True)).matrix.item(), 4)
      0.2
    """
    method = cholesky() if method is None else method
    check_number("damping", damping, 0)
    check_number("tolerance", tolerance, 0, math.inf)
    solve = method.root
    if solve is None:
        raise ValueError(f"method={method.name} computes no inverses: use precond.roots.cholesky() or precond.eigh().")

    def ridge(order: Power) -> jax.Array:
        return jnp.asarray(damping) ** (1 / float(order))

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        del stack
        return RootState(tuple(None if f is None else _start(f) for f in factors), ())

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        del first
        added = ridge(power).astype(factors.dtype)
        if factors.ndim == 2:
            return _diagonal(factors, derived, added, tolerance)
        if factors.shape[-1] == 1:
            one = _diagonal(factors[:, :, 0], derived._replace(matrix=derived.matrix[:, :, 0]), added, tolerance)
            return one._replace(matrix=one.matrix[:, :, None])
        return refresh_inverse(solve, factors, derived, 1, lambda largest, mean: added, least=0.0, tolerance=tolerance)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        del gradient
        full = [None if x is None or x.matrix.ndim == 2 else x.matrix for x in state.derived]
        out = multiply(direction, full)
        for axis, x in enumerate(state.derived):
            if x is not None and x.matrix.ndim == 2:
                out = out * on_axis(x.matrix, axis, out.ndim)
        return out, state

    return Root(init, refresh, apply, whiten_by_matrix, lambda axis: axis.order, PADDING, symmetric=True)


def _start(factor: Factor) -> Checked:
    if len(factor.shape) == 3:
        return unchecked(factor)
    one = unchecked(jax.ShapeDtypeStruct((factor.shape[0], 1, 1), factor.dtype))
    return Checked(jnp.ones(factor.shape, factor.dtype), one.health)


def _diagonal(factors: jax.Array, old: Checked, ridge: jax.Array, tolerance: float) -> Checked:
    """Refresh diagonal factors. Only non-finite ones are refused."""
    largest = jnp.max(factors, axis=1)
    added = escalated_ridge(jnp.broadcast_to(ridge, largest.shape), largest, old)
    damped = jnp.maximum(factors, 0) + added[:, None]
    empty = largest <= 0  # the inverse of a zero factor is the identity
    new = jnp.where(empty[:, None], 1, 1 / jnp.where(empty[:, None], 1, damped))
    seen = jnp.where(empty, 1, largest)
    # 1 / infinity is finite.
    sound = jnp.max(jnp.abs(factors), axis=1) < jnp.inf
    return accept(
        new,
        jnp.where(sound, 0, jnp.full_like(largest, jnp.inf)),
        old,
        tolerance,
        damping=jnp.where(empty, 0, added / seen),
        condition=jnp.where(empty, 0, (largest + added) / jnp.min(damped, axis=1)),
    )

"""K-FAC's root: every axis multiplied by the damped inverse of its factor."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number
from precond.linalg import multiply
from precond.roots.damping import absolute
from precond.roots.guard import Checked, Health, accept, raised, unchecked
from precond.roots.inverse_root import inverse_root
from precond.roots.method import Method
from precond.roots.root import Power, Root, RootState

__all__ = ["inverse"]


def inverse(damping: ArrayLike = 1e-3, *, method: Method | None = None, tolerance: float = 0.5) -> Root:
    r"""Multiply every axis i of a block by $(F_i + \lambda^{1/k} I)^{-1}$, with k factors.

    Behind `precond.balance`, which gives the factors of a block one mean eigenvalue, this is K-FAC with factored
    Tikhonov damping. For a layer with the factors A of its inputs and G of its outputs, and $\pi^2 = n_A / n_G$ the
    ratio of their mean eigenvalues:

    $$V = (A + \pi \sqrt\lambda I)^{-1} \, \nabla W \, (G + \sqrt\lambda / \pi \, I)^{-1}$$

    A factor may be the diagonal of one, `[N, d]`.

    Args:
      damping: $\lambda$, in the units of the Fisher matrix.
      method: as in `precond.inverse_root`.
      tolerance: likewise.

    Returns:
      A `Root`. Between refreshes the matrices stay as they are.

    Raises:
      ValueError, TypeError: for a negative damping; as `precond.inverse_root`.

    Reference:
      Martens and Grosse, 2015, section 6.3; Ba, Grosse and Martens, 2017, equations 3 and 10 to 12.

    Examples:
      >>> root, factor = inverse(damping=4.0), jnp.full((1, 1, 1), 3.0)
      >>> state = root.init(jnp.ones((1, 1)), (factor,))
      >>> round(root.refresh(factor, state.derived[0], 2, jnp.asarray(True)).matrix.item(), 4)  # 1 / (3 + 4^(1/2))
      0.2
    """
    check_number("damping", damping, 0)
    inverse_root(method=method, tolerance=tolerance)  # its errors now

    def ridge(order: Power) -> jax.Array:
        return jnp.asarray(damping) ** (1 / float(order))

    def init(stack: Any, factors: Sequence[Any]) -> RootState:
        del stack
        return RootState(tuple(None if f is None else _start(f) for f in factors), ())

    def refresh(factors: jax.Array, derived: Any, order: Power, first: jax.Array) -> Checked:
        if factors.ndim == 2:
            return _diagonal(factors, derived, ridge(order).astype(factors.dtype), tolerance)
        root = inverse_root(power=1, method=method, damping=absolute(ridge(order)), tolerance=tolerance)
        return root.refresh(factors, derived, 1, first)

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> Any:
        del gradient
        full = [None if x is None or x.matrix.ndim == 2 else x.matrix for x in state.derived]
        out = multiply(direction, full)
        for axis, x in enumerate(state.derived):
            if x is not None and x.matrix.ndim == 2:
                out = out * jnp.expand_dims(x.matrix, [i for i in range(1, out.ndim) if i != axis + 1])
        return out, state

    def whiten(derived: Checked, factor: jax.Array) -> jax.Array:
        del factor
        return derived.matrix

    return Root(init, refresh, apply, whiten, lambda order: order)


def _start(factor: Any) -> Checked:
    if len(factor.shape) == 3:
        return unchecked(factor)
    one = unchecked(jax.ShapeDtypeStruct((factor.shape[0], 1, 1), factor.dtype))
    return Checked(jnp.ones(factor.shape, factor.dtype), one.health)


def _diagonal(factors: jax.Array, old: Checked, ridge: jax.Array, tolerance: float) -> Checked:
    """As `inverse_root` treats matrices, for diagonals: only what is not finite can be refused."""
    largest = jnp.max(factors, axis=1)
    added = raised(jnp.broadcast_to(ridge, largest.shape), largest, old)
    damped = jnp.maximum(factors, 0) + added[:, None]
    empty = largest <= 0  # the inverse of a zero factor is the identity
    new = jnp.where(empty[:, None], 1, 1 / jnp.where(empty[:, None], 1, damped))
    seen = jnp.where(empty, 1, largest)
    got = accept(
        new[:, :, None],
        jnp.zeros_like(largest),
        Checked(old.matrix[:, :, None], old.health),
        tolerance,
        damping=jnp.where(empty, 0, added / seen),
        condition=jnp.where(empty, 1, (largest + added) / jnp.min(damped, axis=1)),
    )
    return Checked(got.matrix[:, :, 0], Health(*got.health))

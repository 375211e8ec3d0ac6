"""Store roots and bases in a narrower type than they are computed in."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from precond.arguments import check_floating, described
from precond.roots.guard import Health
from precond.roots.root import Derived, Factor, Power, Root, RootState
from precond.trees import Leaf

__all__ = ["store_as"]


@described()
def store_as(root: Root, dtype: DTypeLike = jnp.bfloat16) -> Root:
    r"""Store roots and bases in a narrower type: in bfloat16 they take half the memory.

    They are rounded after each refresh and widened wherever they are used. In bfloat16 a matrix X is off by at most
    $2^{-8} \|X\|_F$ in the Frobenius norm, and a basis of size d is off from being orthonormal by twice
    $2^{-8} \sqrt d$. The health of the roots is measured before rounding.

    Args:
      root: a root.
      dtype: the type in which they are stored.

    Returns:
      A `Root`.

    Raises:
      TypeError: for a type that is not a floating-point type.

    Examples:
      >>> from precond import inverse_root
      >>> state = store_as(inverse_root()).init(jnp.ones((1, 2)), (jnp.ones((1, 2, 2)),))
      >>> state.derived[0].matrix.dtype
      dtype(bfloat16)
    """
    kept = check_floating("dtype", dtype)

    def narrow(tree: Derived) -> Derived:
        def one(x: jax.Array | Health) -> jax.Array | Health:
            if isinstance(x, Health):
                return x
            return x.astype(kept) if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, Health))

    def widen(tree: Derived, wide: jnp.dtype) -> Derived:
        return jax.tree.map(lambda x: x.astype(wide) if x.dtype == kept else x, tree)

    def init(stack: Leaf, factors: tuple[Factor | None, ...]) -> RootState:
        state = root.init(stack, factors)
        return state._replace(derived=narrow(state.derived))

    def refresh(factors: jax.Array, derived: Derived, power: Power, first: jax.Array) -> Derived:
        return narrow(root.refresh(factors, widen(derived, factors.dtype), power, first))

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        wide = state._replace(derived=widen(state.derived, gradient.dtype))
        out, moved = root.apply(direction, gradient, wide)
        return out, moved._replace(derived=state.derived)

    def whiten(state: RootState, axis: int, factor: jax.Array) -> jax.Array:
        assert root.whiten is not None
        return root.whiten(state._replace(derived=widen(state.derived, factor.dtype)), axis, factor)

    def transport(moments: Any, old: Derived, new: Derived, axis: int) -> Any:
        assert root.transport is not None
        wide = next(
            (x.dtype for x in jax.tree.leaves(moments) if jnp.issubdtype(x.dtype, jnp.floating)), jnp.dtype(dtype)
        )
        return root.transport(moments, widen(old, wide), widen(new, wide), axis)

    given = None if root.whiten is None else whiten
    moving = None if root.transport is None else transport
    return root._replace(init=init, refresh=refresh, apply=apply, whiten=given, transport=moving)

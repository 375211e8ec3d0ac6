"""Store roots and bases in less memory: in a narrower type, and symmetric matrices as triangles."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from precond.arguments import check_floating, described
from precond.linalg import Packed, dense, packed
from precond.roots.guard import Health
from precond.roots.root import Derived, Factor, Padding, Power, Root, RootState
from precond.trees import Leaf

__all__ = ["store_as"]


@described()
def store_as(root: Root, dtype: DTypeLike = jnp.bfloat16) -> Root:
    r"""Store roots in a quarter of the memory, and bases in half: in bfloat16, and symmetric matrices as triangles.

    They are rounded after each refresh and widened wherever they are used. In bfloat16 a matrix X is off by at most
    $2^{-8} \|X\|_F$ in the Frobenius norm, and a basis of size d is off from being orthonormal by twice
    $2^{-8} \sqrt d$. The health of the roots is measured before rounding. `Root.symmetric` says whether a root derives
    symmetric matrices.

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
      >>> jax.tree.map(lambda x: (x.shape, x.dtype.name), state.derived[0].matrix)._asdict()
      {'rectangle': ((1, 2, 1), 'bfloat16'), 'diagonal': ((1, 1), 'bfloat16')}
    """
    kept = check_floating("dtype", dtype)

    def narrow(tree: Derived) -> Derived:
        def one(x: jax.Array | Health) -> jax.Array | Health | Packed:
            if isinstance(x, Health) or x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
                return x
            square = x.ndim == 3 and x.shape[1] == x.shape[2] > 1
            return packed(x.astype(kept)) if root.symmetric and square else x.astype(kept)

        return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, Health))

    def widen(tree: Derived, wide: jnp.dtype) -> Derived:
        def one(x: jax.Array | Health | Packed) -> jax.Array | Health | Packed:
            return x if isinstance(x, Health) or x.dtype != kept else dense(x).astype(wide)

        return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, Health | Packed))

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

    changed = {"init": init, "refresh": refresh, "apply": apply}
    if root.whiten is not None:
        changed["whiten"] = whiten
    if root.transport is not None:
        changed["transport"] = transport
    if root.padding is not None:
        changed["padding"] = _of_whole(root.padding, narrow, lambda tree: widen(tree, jnp.dtype(kept)))
    return root._replace(**changed)


def _of_whole(padding: Padding, narrow: Callable[[Derived], Derived], widen: Callable[[Derived], Derived]) -> Padding:
    """Pad and crop matrices that are kept as triangles."""

    def derived(rows: Derived, size: int) -> Derived:
        return narrow(padding.derived(widen(rows), size))

    def crop(rows: Derived, like: Derived) -> Derived:
        return narrow(padding.crop(widen(rows), widen(like)))

    return padding._replace(derived=derived, crop=crop)

"""Wrap a root for methods whose step has no sensible length before their roots are known."""

import functools

import jax
import jax.numpy as jnp

from precond.arguments import check_part, described
from precond.blocks import keep_finite
from precond.roots.guard import Checked
from precond.roots.root import Root, RootState
from precond.trees import find_nodes

__all__ = ["waiting"]


@described()
def waiting(root: Root) -> Root:
    """Leave a block where it is until every axis of it has a root.

    A root is the identity before its first refresh, and as long as its factor is zero. The step of a block is then the
    gradient itself, whose length has nothing to do with the length of later steps. This matters for methods without a
    graft, such as `precond.kl_shampoo`, if the first gradients of a block are zero.

    Args:
      root: a root that multiplies every axis by a matrix: `precond.inverse_root`, `precond.inverse`.

    Returns:
      A `Root`.

    Raises:
      TypeError: if `root` is not a root.

    Examples:
      >>> from precond import inverse_root
      >>> root = waiting(inverse_root())
      >>> factor = jnp.full((1, 1, 1), 16.0)
      >>> g = jnp.ones((1, 1))
      >>> state = root.init(g, (factor,))
      >>> known = state._replace(
      ...     derived=(root.refresh(factor, state.derived[0], 0.5, jnp.asarray(True)),)
      ... )
      >>> root.apply(g, g, state)[0].item(), round(root.apply(g, g, known)[0].item(), 4)
      (0.0, 0.25)
    """
    check_part("root", root, Root, "precond.inverse_root()")

    def apply(direction: jax.Array, gradient: jax.Array, state: RootState) -> tuple[jax.Array, RootState]:
        out, moved = root.apply(direction, gradient, state)
        known = [x.health.known for x in find_nodes(state.derived, Checked)]
        if not known:
            return out, moved
        there = functools.reduce(jnp.logical_and, known)
        return keep_finite(there, out, jnp.zeros_like(out)), moved

    return root._replace(apply=apply)

"""Wrap a root so that it keeps its last finite matrices."""

import jax
import jax.numpy as jnp

from precond.arguments import check_part
from precond.blocks import keep_finite
from precond.roots.root import Derived, Power, Root

__all__ = ["last_finite"]


def last_finite(root: Root) -> Root:
    """Wrap a root so that a result that is not finite is discarded, and the previous one kept.

    The roots of this library do so by themselves.

    Args:
      root: a root.

    Examples:
      >>> import precond
      >>> inverse = precond.inverse_root()._replace(
      ...     refresh=lambda factors, derived, power, first: 1 / factors
      ... )
      >>> root, one = last_finite(inverse), jnp.ones((2, 1, 1))
      >>> root.refresh(jnp.asarray([[[0.0]], [[2.0]]]), one, 1, True)[:, 0, 0].tolist()
      [1.0, 0.5]
    """
    check_part("root", root, Root, "precond.inverse_root()")

    def refresh(factors: jax.Array, derived: Derived, power: Power, first: jax.Array) -> Derived:
        new = root.refresh(factors, derived, power, first)
        flat = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(new)]
        return keep_finite(jnp.all(jnp.stack(flat), axis=0), new, derived)

    return root._replace(refresh=refresh)

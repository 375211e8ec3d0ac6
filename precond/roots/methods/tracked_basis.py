"""Track the eigenvectors of a factor: by `eigh` the first time, then by steps from the basis before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from precond.control_flow import run_if
from precond.linalg import first_basis
from precond.roots.methods.method import BasisOf
from precond.scopes import named

__all__ = ["tracked_basis"]


def tracked_basis(step: Callable[[jax.Array, jax.Array], jax.Array]) -> BasisOf:
    """Decompose a factor by `eigh` the first time, and take a step from the basis before at every later time.

    Args:
      step: a function from factors `[M, d, d]` and bases to bases.

    Examples:
      >>> basis_of = tracked_basis(lambda a, old: old)
      >>> basis_of(jnp.ones((1, 2, 2)), jnp.eye(2)[None], jnp.asarray(False))[0].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        if a.shape[-1] == 1:
            return jnp.ones_like(a)
        later = step(a, old)

        def begin() -> jax.Array:
            with named("first"):
                return jnp.where(jnp.broadcast_to(first, a.shape[:1])[:, None, None], first_basis(a, old), later)

        return run_if(jnp.any(first), begin, lambda: later)

    return basis

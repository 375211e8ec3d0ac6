"""Estimate the condition number of a damped factor from its root."""

import jax

from precond.linalg import largest_eigenvalue
from precond.roots.root import Power

__all__ = ["condition_of"]

# Condition numbers are only reported. On CPU, 8 Lanczos steps find those of matrices of up to 768 rows to a tenth.
_STEPS = 8


def condition_of(root: jax.Array, largest: jax.Array, power: Power) -> jax.Array:
    """Estimate condition numbers from roots, whose largest eigenvalue is the factor's least to minus the power.

    Args:
      root: inverse roots, `[M, d, d]`.
      largest: the largest eigenvalue of each damped factor, `[M]`.
      power: the power; the root is the factor to minus this power.

    Examples:
      >>> import jax.numpy as jnp
      >>> root = jnp.diag(jnp.asarray([0.5, 1.0]))[None]  # of diag(4, 1), for the power 1/2
      >>> round(condition_of(root, jnp.asarray([4.0]), 0.5).item(), 2)
      4.0
    """
    return largest * largest_eigenvalue(root, steps=_STEPS) ** (1 / float(power))

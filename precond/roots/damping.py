"""What is added to a factor before its root is taken."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number

__all__ = ["Damping", "absolute", "relative", "trace"]

Damping = Callable[[jax.Array, jax.Array], ArrayLike]
"""From the largest and the mean eigenvalue of each factor, `[M]`, to what is added to its diagonal."""


def relative(eps: ArrayLike = 1e-6, *, floor: float = 0.0) -> Damping:
    r"""$\epsilon \max(\lambda_{\max}, \text{floor})$: the condition number is at most $1 + 1/\epsilon$ at any scale.

    Args:
      eps: dimensionless.
      floor: in the units of the factor. Above 0 the result depends on the scale of the loss, as in Google's
        implementation (1e-6 with its eigh, 1e-25 with its Newton iteration).

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> relative(0.5)(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [2.0]
    """
    check_number("eps", eps, 0)
    check_number("floor", floor, 0)
    return lambda largest, mean: eps * jnp.maximum(largest, floor)


def absolute(eps: ArrayLike = 1e-12) -> Damping:
    r"""$\epsilon$ itself, in the units of the factor (squared gradients), as Meta's implementation and the papers.

    Args:
      eps: in the units of the factor.

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> absolute(0.5)(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [0.5]
    """
    check_number("eps", eps, 0)
    return lambda largest, mean: eps * jnp.ones_like(largest)


def trace(eps: ArrayLike = 1e-6) -> Damping:
    r"""$\epsilon \, \mathrm{tr}(A) / d$: relative to the mean eigenvalue.

    Args:
      eps: dimensionless.

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> trace(0.5)(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [0.5]
    """
    check_number("eps", eps, 0)
    return lambda largest, mean: eps * mean

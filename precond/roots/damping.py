"""Damp factors: add a ridge to the diagonal of a factor before its root is computed."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described, made

__all__ = ["Damping", "absolute", "relative", "trace_damping"]


class RidgeOf(Protocol):
    """Compute ridges: the type of `Damping.ridge`."""

    def __call__(self, largest: jax.Array, mean: jax.Array) -> ArrayLike:
        """Return the number that is added to the diagonal of each factor, `[M]`.

        Args:
          largest: the largest eigenvalue of each factor, `[M]`.
          mean: the mean eigenvalue of each factor, `[M]`.
        """
        ...


class LeastOf(Protocol):
    """Bound ridges from below: the type of `Damping.least`."""

    def __call__(self, size: int) -> float:
        """Return a lower bound of the ridge, relative to the largest eigenvalue; 0 if nothing is known beforehand.

        Args:
          size: the size of a factor.
        """
        ...


class Damping(NamedTuple):
    """Add a ridge to the diagonal of factors.

    Attributes:
      ridge: a function from the largest and the mean eigenvalues of factors to the ridges (`RidgeOf`).
      least: a function from the size of a factor to a lower bound of the ridge (`LeastOf`), by which
        `precond.composite` chooses the number of its steps.
    """

    ridge: RidgeOf
    least: LeastOf = lambda size: 0.0

    def __repr__(self) -> str:
        """Name the function that made it."""
        return made(self)


def _known(eps: Any) -> float:
    """Return the value of `eps`, or 0 if it is injected."""
    return 0.0 if isinstance(eps, jax.Array) else float(eps)


@described()
def relative(eps: ArrayLike = 1e-6, *, floor: float = 0.0) -> Damping:
    r"""Add a ridge relative to the largest eigenvalue, which bounds the condition number.

    It adds $\epsilon \max(\lambda_{\max}, \text{floor})$, so that the condition number is at most $1 + 1/\epsilon$.

    Args:
      eps: the ridge relative to the largest eigenvalue.
      floor: a lower bound of this eigenvalue, in the units of the factor. If it is above 0, the result depends on the
        scale of the loss, as in Google's implementation (1e-6 with its eigh, 1e-25 with its Newton iteration).

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> relative(0.5).ridge(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [2.0]
    """
    check_number("eps", eps, 0)
    check_number("floor", floor, 0)
    return Damping(lambda largest, mean: eps * jnp.maximum(largest, floor), lambda size: _known(eps))


@described()
def absolute(eps: ArrayLike = 1e-12) -> Damping:
    r"""Add a ridge of one size to every factor, as Meta's implementation and the papers do.

    The ridge is $\epsilon$ itself.

    Args:
      eps: the ridge, in the units of the factor, which are those of squared gradients.

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> absolute(0.5).ridge(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [0.5]
    """
    check_number("eps", eps, 0)
    return Damping(lambda largest, mean: eps * jnp.ones_like(largest))


@described()
def trace_damping(eps: ArrayLike = 1e-6) -> Damping:
    r"""Add a ridge relative to the mean eigenvalue.

    The ridge is $\epsilon \, \mathrm{tr}(A) / d$.

    Args:
      eps: the ridge relative to the mean eigenvalue.

    Raises:
      ValueError, TypeError: for a number below 0.

    Examples:
      >>> trace_damping(0.5).ridge(jnp.asarray([4.0]), jnp.asarray([1.0])).tolist()
      [0.5]
    """
    check_number("eps", eps, 0)
    return Damping(lambda largest, mean: eps * mean, lambda size: _known(eps) / size)

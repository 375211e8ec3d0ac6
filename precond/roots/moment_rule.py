"""Combine a second moment with its newest measurement."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_number, described
from precond.linalg import average

__all__ = ["MomentRule", "decayed_max", "ema"]


class MomentRule(Protocol):
    """Combine old and new second moments: the type of `follow=` of `precond.corrected_inverse`."""

    def __call__(self, old: jax.Array, new: jax.Array, count: jax.Array) -> jax.Array:
        """Return the second moments after one more measurement.

        Args:
          old: the second moments so far, `[N, d1, .., dk]`.
          new: the measurement, of the same shape.
          count: the number of measurements of each block, this one included, `[N]`.
        """
        ...


@described()
def decayed_max(decay: ArrayLike = 0.8) -> MomentRule:
    r"""Take the larger of the measurement and the decayed old moment.

    $$S \leftarrow \max(\beta S, X)$$

    If curvature has grown since it was measured, a step that is divided by the old measurement is too long. At the
    start of training it is too long by orders of magnitude.

    Args:
      decay: $\beta$; 1 forgets nothing. With the default, a tenth of an old moment is left after ten measurements.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> follow = decayed_max(0.5)
      >>> [
      ...     follow(jnp.asarray(4.0), jnp.asarray(x), jnp.asarray(2)).item()
      ...     for x in (1.0, 5.0)
      ... ]
      [2.0, 5.0]
    """
    check_number("decay", decay, 0, 1)
    return lambda old, new, count: jnp.maximum(jnp.asarray(decay, old.dtype) * old, new)


@described()
def ema(decay: ArrayLike = 0.95) -> MomentRule:
    r"""Average moments without the bias of the start, as George et al. do.

    $$S \leftarrow \beta S + (1 - \beta) X$$

    Args:
      decay: $\beta$, below 1. The default is that of the factors in `precond.activations`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> follow = ema(0.5)
      >>> [
      ...     round(follow(jnp.asarray(4.0), jnp.asarray(1.0), jnp.asarray(t)).item(), 4)
      ...     for t in (1, 2)
      ... ]
      [1.0, 2.0]
    """
    check_decay("decay", decay)

    def follow(old: jax.Array, new: jax.Array, count: jax.Array) -> jax.Array:
        return average(old, new, decay, count=count.reshape(*count.shape, *[1] * (old.ndim - count.ndim)))

    return follow

"""Scale a learning rate with the batch by other rules than AdaScale's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from precond.arguments import check_number, described

__all__ = ["Rule", "legw_rule", "linear_rule", "square_root_rule"]

Rule = Callable[[jax.Array, jax.Array, jax.Array], ArrayLike]
"""A function from AdaScale's gain, the scale S and the scale-invariant steps done to a factor of the learning rate."""


def linear_rule(gain: jax.Array, scale: jax.Array, step: jax.Array) -> jax.Array:
    """Multiply the learning rate by S, as AdaptDL's `LinearScale` does.

    Args:
      gain: AdaScale's, which this rule does not use.
      scale: S.
      step: scale-invariant steps done, which this rule does not use.

    Examples:
      >>> linear_rule(jnp.asarray(1.5), jnp.asarray(4.0), jnp.asarray(0.0)).item()
      4.0
    """
    del gain, step
    return scale


def square_root_rule(gain: jax.Array, scale: jax.Array, step: jax.Array) -> jax.Array:
    """Multiply the learning rate by the square root of S, as AdaptDL's `SqrtScale` does.

    Args:
      gain: AdaScale's, which this rule does not use.
      scale: S.
      step: scale-invariant steps done, which this rule does not use.

    Examples:
      >>> square_root_rule(jnp.asarray(1.5), jnp.asarray(4.0), jnp.asarray(0.0)).item()
      2.0
    """
    del gain, step
    return jnp.sqrt(scale)


@described()
def legw_rule(warmup: ArrayLike) -> Rule:
    r"""Multiply the learning rate by the square root of S, after a warm-up that is S times as long.

    This is AdaptDL's `LEGWScale`.

    $$\sqrt S \min\Big(1, \frac{\tau}{S w}\Big)$$

    Args:
      warmup: w, the steps of warm-up of the base batch.

    Returns:
      A rule, for `rule=` of `precond.scale_by_adascale`.

    Raises:
      ValueError, TypeError: for a number of steps that is not above 0.

    Reference:
      You et al., Large-Batch Training for LSTM and Beyond, 2019; petuum/adaptdl, which counts scale-invariant steps.

    Examples:
      >>> # The warm-up has 40 steps, and half of them are done.
      >>> legw_rule(10)(jnp.asarray(1.5), jnp.asarray(4.0), jnp.asarray(20.0)).item()
      1.0
    """
    check_number("warmup", warmup, 0)
    if not isinstance(warmup, jax.Array) and warmup == 0:
        raise ValueError("warmup=0: must be above 0; precond.large_batches.square_root_rule has no warm-up.")

    def rule(gain: jax.Array, scale: jax.Array, step: jax.Array) -> jax.Array:
        del gain
        return jnp.sqrt(scale) * jnp.minimum(step / (scale * warmup), 1)

    return rule

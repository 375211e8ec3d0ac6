"""Tell how large the batch should be, from the averages of AdaScale and the time of a step."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, check_values
from precond.large_batches.gain import gain
from precond.large_batches.scale_by_adascale import AdascaleState
from precond.trees import find_nodes

__all__ = ["best_scale", "gain_at"]


def gain_at(state: optax.OptState, scale: ArrayLike) -> jax.Array:
    r"""Return AdaScale's gain at another scale, from the averages so far.

    $$r(S) = \frac{\sigma^2 + \mu^2}{\sigma^2 / S + \mu^2}$$

    Args:
      state: the state of an optimizer with `precond.scale_by_adascale` in it.
      scale: S, at least 1; an array gives an array.

    Raises:
      ValueError: for a scale below 1, or a state without AdaScale, or with more than one.

    Reference:
      Qiao et al., Pollux, 2021, equation 5; the function `gain` of petuum/adaptdl.

    Examples:
      >>> from precond import large_batches
      >>> state = large_batches.scale_by_adascale(0.1, scale=2).init(jnp.zeros(2))
      >>> known = state._replace(variance=jnp.asarray([4.0]), square=jnp.asarray([1.0]))
      >>> gain_at(known, 2).item(), gain_at(known, 4).item()  # 5 / 3 and 5 / 2
      (1.6666666269302368, 2.5)
    """
    check_number("scale", scale, 1, advice="It counts base batches.")
    check_values(state=state)
    found = find_nodes(state, AdascaleState)
    if len(found) != 1:
        raise ValueError(
            f"state= has {len(found)} states of AdaScale, and one is needed: pass the state of an optimizer with "
            f"precond.scale_by_adascale in it."
        )
    # Averages of samples that are not clipped may be negative.
    variance, square = (jnp.sum(jnp.maximum(x, 0)) for x in (found[0].variance, found[0].square))
    return gain(variance, square, jnp.asarray(scale, variance.dtype))


def best_scale(state: optax.OptState, seconds: Mapping[float, float]) -> float:
    r"""Return the scale with the best goodput: the most progress in a second.

    The progress of a step is its gain, in steps of the base batch: $r(S) / t(S)$ is the largest.

    Args:
      state: the state of an optimizer with `precond.scale_by_adascale` in it, outside of `jax.jit`.
      seconds: the measured time of a step for each scale that is possible.

    Raises:
      ValueError: for no scales, a time that is not above 0, and as `gain_at`.

    Reference:
      Qiao et al., Pollux, 2021, equation 1. Pollux has a model of the time of a step, which is fitted while it trains.

    Examples:
      >>> from precond import large_batches
      >>> state = large_batches.scale_by_adascale(0.1, scale=2).init(jnp.zeros(2))
      >>> known = state._replace(variance=jnp.asarray([4.0]), square=jnp.asarray([1.0]))
      >>> # The rates are 1, 2.5 / 1.5 and 4.7 / 12 steps of the base batch in a second.
      >>> best_scale(known, {1: 1.0, 4: 1.5, 64: 12.0})
      4
    """
    if not seconds or not min(seconds.values()) > 0:
        raise ValueError(f"seconds={dict(seconds)}: must give a time above 0 for one scale or more.")
    return max(seconds, key=lambda scale: float(gain_at(state, scale)) / seconds[scale])

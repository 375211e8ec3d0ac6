"""Graft methods: take the direction of one method and the magnitude of another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import (
    as_direction,
    check_number,
    check_signs,
    check_transformation,
    check_whole,
    described,
)
from precond.blocks import BlockInfo, info_of
from precond.linalg import batch_norm
from precond.linalg.divide import divide_or_zero
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["GraftState", "graft"]


class GraftState(NamedTuple):
    """Hold the state of `graft`.

    Attributes:
      count: the number of updates in which some block was finite.
      direction: the state of the direction.
      magnitude: the state of the magnitude.
    """

    count: jax.Array
    direction: optax.OptState
    magnitude: optax.OptState


@described(explain=True)
def graft(
    direction: optax.GradientTransformation,
    magnitude: optax.GradientTransformation,
    *,
    start: int = 1,
    eps: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Take the direction of one update and the norm of another, by parameter or by block.

    The direction's update is $D$, and the magnitude's is $U$.

    $$P = D \, \frac{\|U\|}{\|D\| + \epsilon}$$

    Both see the same gradients. Outside `precond.blocked` the norms are those of each parameter, as in Google's
    Shampoo. Inside they are those of each block, as in Meta's. You choose by where you put it.

    Args:
      direction: a transformation.
      magnitude: a transformation.
      start: the first step (counted from 1) that is grafted. Before it the update is $U$ itself, while the direction
        warms up.
      eps: added to the norm of the direction. If this norm is 0, so is the update.

    Returns:
      A transformation; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a start below 1, a negative eps, or an argument that is not a transformation.

    Reference:
      Agarwal et al., Disentangling Adaptive Gradient Methods from Learning Rates, 2020.

    Examples:
      >>> tx = graft(direction=optax.identity(), magnitude=optax.scale_by_sign())
      >>> g = jnp.asarray([3.0, 4.0, 0.0, 0.0])
      >>> # The sign's norm is sqrt(2).
      >>> [round(x, 4) for x in tx.update(g, tx.init(g))[0].tolist()]
      [0.8485, 1.1314, 0.0, 0.0]
    """
    check_whole("start", start, least=1)
    check_number("eps", eps, 0)
    check_transformation("direction", direction)
    check_transformation("magnitude", magnitude)
    direction = optax.with_extra_args_support(direction)
    magnitude = optax.with_extra_args_support(magnitude)

    def init(params: optax.Params) -> GraftState:
        check_signs({"direction": direction, "magnitude": magnitude}, dict.fromkeys(("direction", "magnitude"), params))
        return GraftState(jnp.zeros([], jnp.int32), direction.init(params), magnitude.init(params))

    def update(
        updates: optax.Updates,
        state: GraftState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GraftState]:
        info = info_of(blocks)
        way, first = direction.update(updates, state.direction, params, **extra, blocks=info)
        size, second = magnitude.update(updates, state.magnitude, params, **extra, blocks=info)
        count = info.advance(state.count)

        def one(gradient: jax.Array, d: jax.Array, u: jax.Array) -> jax.Array:
            wide = wide_dtype(gradient)
            d, u = d.astype(wide), u.astype(wide)
            norm = batch_norm(d, info.batch_axes) + eps
            ratio = divide_or_zero(batch_norm(u, info.batch_axes), norm)
            grafted = d * ratio
            if start > 1:
                grafted = jnp.where(count < start, u, grafted)
            return grafted.astype(gradient.dtype)

        out = jax.tree.map(one, updates, way, size)
        return out, GraftState(count, first, second)

    return as_direction(transformation(init, update), like=direction)

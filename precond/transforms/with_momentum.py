"""Share one momentum among several transformations that also need the raw gradient."""

from typing import Any, NamedTuple

import optax

from precond.arguments import Described, as_direction, check_direction, check_transformation, described
from precond.blocks import BlockInfo, info_of
from precond.transformation import transformation
from precond.widened import widened

__all__ = ["MomentumState", "with_momentum"]


class MomentumState(NamedTuple):
    """Hold the state of `with_momentum`.

    Attributes:
      momentum: the state of the momentum.
      inner: the state of the inner transformation.
    """

    momentum: optax.OptState
    inner: optax.OptState


@described(explain=True)
def with_momentum(
    momentum: optax.GradientTransformation, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Pass the momentum of the gradients to `inner` as updates, and the gradients themselves as `blocks.gradients`.

    Statistics and second moments are then those of the raw gradients: `precond.scale_by_kronecker` and
    `precond.transforms.scale_by_diagonal` take them from there (`precond.BlockInfo`). A graft of one onto the other
    inside `with_momentum` keeps one momentum, where otherwise each would keep its own.

    Args:
      momentum: a transformation (`optax.ema(0.9)`).
      inner: a transformation.

    Returns:
      A transformation.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.transforms import scale_by_diagonal
      >>> tx = with_momentum(optax.scale(0.5), scale_by_diagonal(eps=0.0))
      >>> g = jnp.asarray([4.0])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [0.5]
    """
    check_transformation("momentum", momentum)
    check_transformation("inner", inner)
    if isinstance(momentum, Described) and (momentum.sign > 0 or momentum.maker == "precond.graft"):
        raise ValueError(f"momentum={momentum!r} is no momentum: the order is with_momentum(momentum, inner).")
    momentum, inner = optax.with_extra_args_support(momentum), optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(momentum.init(params), inner.init(params))

    def update(
        updates: optax.Updates,
        state: MomentumState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, MomentumState]:
        info = info_of(blocks)
        directions, velocity = momentum.update(updates, state.momentum, params, **extra, blocks=info)
        raw = info._replace(gradients=updates)
        out, inside = inner.update(directions, state.inner, params, **extra, blocks=raw)
        return out, MomentumState(velocity, inside)

    return as_direction(check_direction(widened(transformation(init, update)), momentum=momentum), like=inner)

"""Skip the whole step if any gradient entry is NaN or infinite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_bound, described
from precond.blocks import refuse_divided
from precond.transformation import transformation
from precond.trees import all_finite

__all__ = ["FiniteStepsState", "finite_steps"]


class FiniteStepsState(NamedTuple):
    """Hold the state of `finite_steps`.

    Attributes:
      skipped: the number of steps so far in which the gradient was not finite.
      inner: the state of the inner transformation.
    """

    skipped: jax.Array
    inner: optax.OptState


@described(explain=True)
def finite_steps(
    inner: optax.GradientTransformation, *, axis: str | tuple[str, ...] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Skip the step if any gradient entry is NaN or infinite: move nothing and keep the inner state.

    Momentum and windows of gradients never forget a NaN. `precond.blocked` skips each block by itself; here there is
    one decision for all. (`optax.apply_if_finite` does the same, but gives up after some steps in a row.)

    Args:
      inner: a transformation.
      axis: the mesh axes over which the gradient is sharded, inside the user's own `shard_map` or `pmap`, so that all
        devices decide alike.

    Returns:
      A transformation.

    Examples:
      >>> tx, g = finite_steps(optax.trace(0.5)), jnp.ones(())
      >>> _, state = tx.update(g, tx.init(g))
      >>> updates, state = tx.update(g * jnp.nan, state)
      >>> updates.item(), tx.update(g, state)[0].item(), state.skipped.item()
      (0.0, 1.5, 1)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> FiniteStepsState:
        return FiniteStepsState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(
        updates: optax.Updates, state: FiniteStepsState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, FiniteStepsState]:
        refuse_divided("finite_steps", extra.get("blocks"))
        finite = all_finite(updates)
        if axis is not None:
            check_bound(axis)
            finite = jax.lax.pmin(finite.astype(jnp.int32), axis) > 0
        out, new = inner.update(updates, state.inner, params, **extra)
        out = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), out)
        return out, FiniteStepsState(state.skipped + ~finite, optax.tree.where(finite, new, state.inner))

    return transformation(init, update)

"""Switch from one transformation to another at a step; both are updated all the time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_signs, check_whole, described
from precond.blocks import count_foreign
from precond.transformation import transformation

__all__ = ["SwitchState", "switch"]


class SwitchState(NamedTuple):
    """Hold the state of `switch`.

    Attributes:
      count: the number of updates seen.
      before: the state of the first transformation.
      after: the state of the second.
    """

    count: jax.Array
    before: optax.OptState
    after: optax.OptState


@described(explain=True)
def switch(
    start: int, before: optax.GradientTransformation, after: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Use the updates of `before` in steps below `start` (counted from 1), and those of `after` from then on.

    Both are updated in every step, so that statistics and momentum of the second are warm when it takes over. Google's
    Shampoo does so: it keeps a momentum for the grafted method beside Shampoo's.

    Args:
      start: the first step of `after`.
      before: a transformation.
      after: a transformation.

    Returns:
      A transformation that costs both. Its updates are infinite where one of them has the state of other parameters.

    Raises:
      ValueError, TypeError: for a start below 1.

    Examples:
      >>> tx, g = switch(2, optax.scale(0.1), optax.scale(10.0)), jnp.ones(())
      >>> first, state = tx.update(g, tx.init(g))
      >>> first.item() < 1 < tx.update(g, state)[0].item()
      True
    """
    check_whole("start", start, least=1)
    before, after = optax.with_extra_args_support(before), optax.with_extra_args_support(after)

    def init(params: optax.Params) -> SwitchState:
        check_signs({"before": before, "after": after}, {"before": params, "after": params})
        return SwitchState(jnp.zeros([], jnp.int32), before.init(params), after.init(params))

    def update(
        updates: optax.Updates, state: SwitchState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SwitchState]:
        count = jnp.asarray(optax.safe_increment(state.count))
        early, first = before.update(updates, state.before, params, **extra)
        late, second = after.update(updates, state.after, params, **extra)
        out, new = optax.tree.where(count < start, early, late), SwitchState(count, first, second)
        known, now = count_foreign(state), count_foreign(new)
        if known is not None and now is not None:  # the transformation in use may not know its parameters
            foreign = now > known
            out = jax.tree.map(lambda x: jnp.where(foreign, jnp.inf, x).astype(x.dtype), out)
        return out, new

    return transformation(init, update)

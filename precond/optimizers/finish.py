"""How every alias ends: weight decay, then the learning rate."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_number, check_rate
from precond.eager import compiled_if_eager

__all__ = ["finish"]


def finish(
    scaled: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float | jax.Array | None,
    mask: Any,
) -> optax.GradientTransformationExtraArgs:
    """`scaled`, then decoupled weight decay (None: none, and `params` is not needed), then the learning rate.

    Neither moves a block that is skipped, and a step that skips all of them is none for the learning rate's schedule.

    Args:
      scaled: a `precond.blocked` that marks what it skips (`skipped=jnp.nan`).
      learning_rate: a number or a schedule.
      weight_decay: a number or None.
      mask: as in `optax.adamw`.

    Raises:
      ValueError, TypeError: for a learning rate or weight decay that is no number, or negative.

    Examples:
      >>> from precond import blocked
      >>> tx = finish(blocked(optax.identity(), otherwise=optax.identity(), skipped=jnp.nan), 0.5, None, None)
      >>> g = jnp.asarray([2.0])
      >>> tx.update(g, tx.init(g))[0].tolist(), tx.update(g / 0, tx.init(g))[0].tolist()
      ([-1.0], [0.0])
    """
    check_rate("learning_rate", learning_rate)
    decay = optax.identity()
    if weight_decay is not None:
        check_number("weight_decay", weight_decay, 0)
        decay = optax.add_decayed_weights(weight_decay, mask)
    scaled = optax.with_extra_args_support(scaled)
    tail = optax.chain(decay, optax.scale_by_learning_rate(learning_rate))

    def init(params: Any) -> tuple[Any, Any]:
        return scaled.init(params), tail.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, tuple[Any, Any]]:
        before: Any = state[0]
        marked, after = scaled.update(updates, before, params, **extra)
        inner: Any = after
        moved, last = tail.update(marked, state[1], params)
        moved = jax.tree.map(lambda m, u: jnp.where(jnp.isnan(m), 0, u).astype(u.dtype), marked, moved)
        return moved, (inner, optax.tree.where(inner.steps_skipped > before.steps_skipped, state[1], last))

    return compiled_if_eager(optax.GradientTransformationExtraArgs(init, update))

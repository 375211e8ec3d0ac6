"""Finish every alias: apply weight decay, then the learning rate."""

from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_mask, check_rate, fitting_mask
from precond.blocks import refuse_foreign
from precond.compiled_if_eager import compiled_if_eager
from precond.engine import SKIPPED
from precond.transformation import transformation
from precond.trees import Mask
from precond.widened import widened

__all__ = ["behind", "decayed", "finish"]


class Skipping(Protocol):
    """Count the steps in which every block was skipped: the type of a state, such as that of `precond.blocked`."""

    @property
    def steps_skipped(self) -> jax.Array:
        """The number of these steps so far."""
        ...


def finish(
    scaled: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule | None,
    mask: Mask,
) -> optax.GradientTransformationExtraArgs:
    """Apply `scaled`, then decoupled weight decay, then the learning rate.

    Without weight decay, `params` is not needed. A block that is skipped is moved neither by weight decay nor by the
    learning rate. A step that skips all does not advance the schedule.

    Args:
      scaled: a `precond.blocked` that marks what it skips (`skipped=-jnp.inf`).
      learning_rate: a number or a schedule.
      weight_decay: a number, a schedule of the count of steps from 0, or None.
      mask: as in `optax.adamw`.

    Raises:
      ValueError, TypeError: for a learning rate or weight decay that is not a number, or negative.

    Examples:
      >>> from precond import blocked
      >>> tx = finish(
      ...     blocked(optax.identity(), otherwise=optax.identity(), skipped=-jnp.inf),
      ...     0.5,
      ...     None,
      ...     None,
      ... )
      >>> g = jnp.asarray([2.0])
      >>> tx.update(g, tx.init(g))[0].tolist(), tx.update(g / 0, tx.init(g))[0].tolist()
      ([-1.0], [0.0])
    """
    check_rate("learning_rate", learning_rate)
    return behind(scaled, optax.chain(decayed(weight_decay, mask), optax.scale_by_learning_rate(learning_rate)))


def decayed(weight_decay: optax.ScalarOrSchedule | None, mask: Any) -> optax.GradientTransformation:
    """Add decoupled weight decay, or nothing for None.

    Args:
      weight_decay: a number, a schedule of the count of steps from 0, or None.
      mask: as in `optax.adamw`.

    Raises:
      ValueError, TypeError: if a number is negative or not a number; if a mask is of another kind, or masks nothing.

    Examples:
      >>> tx = decayed(0.5, None)
      >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1))[0].tolist()
      [1.5]
    """
    check_mask(mask, weight_decay)
    if weight_decay is None:
        return optax.identity()
    check_rate("weight_decay", weight_decay)
    return optax.add_decayed_weights(weight_decay, None if mask is None else fitting_mask(mask))


def behind(
    scaled: optax.GradientTransformation, tail: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Put `tail` behind `scaled`, so that it moves nothing which is skipped.

    A step that skips everything does not advance the tail's schedules.

    Args:
      scaled: a `precond.blocked` that marks what it skips (`skipped=-jnp.inf`).
      tail: a transformation, whose updates are thrown away where something is skipped.

    Examples:
      >>> from precond import blocked
      >>> tx = behind(
      ...     blocked(optax.identity(), otherwise=optax.identity(), skipped=-jnp.inf),
      ...     optax.scale(3.0),
      ... )
      >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)))[0].tolist()
      [3.0]
    """
    scaled, tail = optax.with_extra_args_support(scaled), widened(tail)

    def init(params: optax.Params) -> tuple[Skipping, optax.OptState]:
        return cast(Skipping, scaled.init(params)), tail.init(params)

    def update(
        updates: optax.Updates, state: tuple[Skipping, optax.OptState], params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, tuple[Skipping, optax.OptState]]:
        before, schedule = state
        marked, new = scaled.update(updates, cast(optax.OptState, before), params, **extra)
        after = cast(Skipping, new)
        moved, last = tail.update(marked, schedule, params)
        moved = jax.tree.map(lambda m, u: jnp.where(m == SKIPPED, 0, u).astype(u.dtype), marked, moved)
        return moved, (after, optax.tree.where(after.steps_skipped > before.steps_skipped, schedule, last))

    return refuse_foreign(compiled_if_eager(transformation(init, update)))

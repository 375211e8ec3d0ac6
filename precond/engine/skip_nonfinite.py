"""Skip the steps in which a gradient is not finite, and compute in float32 or wider."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_transformation, shown
from precond.blocks import sum_of_squares
from precond.mesh import match_sharding
from precond.transformation import transformation
from precond.widened import widen

__all__ = ["SKIPPED", "SkipNonfiniteState", "check_skipped", "skip_nonfinite", "without_marks"]

SKIPPED = -math.inf
"""The update that marks for `finish` what is skipped. It is not NaN, since a mark would then hide the NaN of a faulty
transformation. If a transformation makes this number itself, `without_marks` changes its sign, so that it is seen."""


class SkipNonfiniteState(NamedTuple):
    """Hold the state of `skip_nonfinite`.

    Attributes:
      steps_skipped: the number of updates so far in which a gradient was not finite.
      inner: the state of the inner transformation.
    """

    steps_skipped: jax.Array
    inner: optax.OptState


def check_skipped(skipped: float) -> None:
    """Raise unless the update of what is skipped is 0 or `SKIPPED`; an array, as of an injected number, is not checked.

    Args:
      skipped: the argument of `precond.blocked`.

    Examples:
      >>> check_skipped(SKIPPED)
    """
    if isinstance(skipped, jax.Array):
        return
    if type(skipped) not in (int, float) or skipped not in (0, SKIPPED):
        raise ValueError(f"skipped={shown(skipped)}: must be 0, or -jnp.inf to mark what a later part must not move.")


def without_marks(updates: jax.Array, skipped: float) -> jax.Array:
    """Turn minus infinity in the updates of a part into infinity, if it marks what is skipped.

    Args:
      updates: the updates of a part.
      skipped: the update of what is skipped.

    Examples:
      >>> without_marks(jnp.asarray([1.0, SKIPPED]), SKIPPED).tolist()
      [1.0, inf]
    """
    marks = not isinstance(skipped, jax.Array) and skipped == SKIPPED
    return jnp.where(updates == SKIPPED, jnp.inf, updates) if marks else updates


def skip_nonfinite(
    inner: optax.GradientTransformation, *, skipped: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Skip the whole step if the sum of squares of some gradient is not finite.

    The inner transformation then keeps its state. It computes in float32 or wider for gradients of any dtype, and is
    initialised with parameters of such a type; updates have the dtype of the gradients. It is the second half of
    `precond.blocked`, for the parameters without a view.

    Args:
      inner: a transformation.
      skipped: the update of a step that is skipped, as in `precond.blocked`.

    Raises:
      TypeError: if `inner` is not a transformation.
      ValueError: for another update of what is skipped.

    Examples:
      >>> tx, g = skip_nonfinite(optax.trace(0.5)), jnp.ones((), jnp.float16)
      >>> _, state = tx.update(g, tx.init(g))
      >>> updates, state = tx.update(g * jnp.nan, state)
      >>> updates, state = tx.update(g, state)
      >>> updates.item(), updates.dtype.name, state.steps_skipped.item()
      (1.5, 'float16', 1)
    """
    check_transformation("inner", inner)
    check_skipped(skipped)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> SkipNonfiniteState:
        return SkipNonfiniteState(jnp.zeros([], jnp.int32), inner.init(widen(params)))

    def update(
        updates: optax.Updates, state: SkipNonfiniteState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SkipNonfiniteState]:
        moved, new = inner.update(widen(updates), state.inner, widen(params), **extra)
        leaves = jax.tree.leaves(updates)
        if not leaves:
            return moved, state._replace(inner=new)
        # The sums are stacked before they are tested: XLA copies a chain of `and` into every kernel that reads it.
        finite = jnp.all(jnp.isfinite(jnp.stack([sum_of_squares(jnp.asarray(x)[None])[0] for x in leaves])))
        marked = jax.tree.map(lambda m: jnp.where(finite, without_marks(m, skipped), skipped), moved)
        out = jax.tree.map(lambda m, x: m.astype(x.dtype), marked, updates)
        kept = optax.tree.where(finite, jax.tree.map(match_sharding, new, state.inner), state.inner)
        return out, SkipNonfiniteState(state.steps_skipped + ~finite, kept)

    return transformation(init, update)

"""Make transformations of one parameter, or of one block, at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from precond.blocks import refuse_stacks
from precond.transformation import transformation

__all__ = ["of_single_blocks"]


def of_single_blocks(name: str, function: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformationExtraArgs:
    """Make a stateless transformation from a function of one parameter, or of one block.

    Args:
      name: the name of the function that makes the transformation.
      function: a function of an array.

    Examples:
      >>> tx = of_single_blocks("double", lambda x: 2 * x)
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0].tolist()
      [2.0, 2.0]
    """

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        refuse_stacks(name, extra.get("blocks"))
        return jax.tree.map(lambda x: function(jnp.asarray(x)), updates), state

    return transformation(lambda params: optax.EmptyState(), update)

"""Bound the length of updates, by parameter or by block."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from precond.arguments import check_number, described
from precond.blocks import BlockInfo, info_of
from precond.linalg import batch_norm
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["clip_by_rms"]


@described()
def clip_by_rms(threshold: ArrayLike = 1.0) -> optax.GradientTransformationExtraArgs:
    r"""Shorten updates to a greatest root mean square by parameter; inside `precond.blocked` by block.

    $$P \min(1, \tau / \mathrm{rms}(P))$$

    Roots can be as old as their refresh period. If the gradient has grown since, the step is too long by as much. Where
    the length of a step has a natural bound (whitened gradients have entries of size 1), this enforces it.
    (`optax.clip_by_block_rms` takes one norm of the whole stack.)

    Args:
      threshold: $\tau$, the largest root mean square of an update, in its units.

    Returns:
      A stateless transformation; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a negative threshold.

    Examples:
      >>> tx, g = clip_by_rms(1.0), {"long": jnp.full(4, 3.0), "short": jnp.full(4, 0.5)}
      >>> jax.tree.map(lambda x: x.tolist()[0], tx.update(g, tx.init(g))[0])
      {'long': 1.0, 'short': 0.5}
    """
    check_number("threshold", threshold, 0, math.inf)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        batch_axes = info_of(blocks).batch_axes

        def one(g: jax.Array) -> jax.Array:
            wide = g.astype(wide_dtype(g))
            longest = threshold * np.sqrt(max(np.prod(g.shape[batch_axes:]), 1)).astype(wide.dtype)
            norm = batch_norm(wide, batch_axes)
            return (wide * jnp.where(norm > longest, longest / jnp.where(norm > 0, norm, 1), 1)).astype(g.dtype)

        return jax.tree.map(one, updates), state

    return transformation(init, update)

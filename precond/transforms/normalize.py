"""Normalize gradients, by parameter or by block."""

from typing import Any

import jax
import optax

from precond.arguments import check_number, described
from precond.blocks import BlockInfo, info_of
from precond.linalg import batch_norm
from precond.linalg.divide import divide_or_zero
from precond.transformation import transformation
from precond.trees import wide_dtype

__all__ = ["normalize"]


@described()
def normalize(eps: float = 1e-25) -> optax.GradientTransformationExtraArgs:
    r"""Scale gradients to unit norm by parameter; inside `precond.blocked` by block.

    $$G / (\|G\| + \epsilon)$$

    Google's `*_NORMALIZED` grafting has it in front of a diagonal method. (`optax.normalize_by_update_norm` takes one
    norm of the whole tree.)

    Args:
      eps: a small number in the units of the gradient; a zero gradient stays zero.

    Raises:
      ValueError, TypeError: for a negative eps.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, g = normalize(), jnp.asarray([3.0, 4.0])
      >>> [round(x, 4) for x in tx.update(g, tx.init(g))[0].tolist()]
      [0.6, 0.8]
    """
    check_number("eps", eps, 0)

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
            norm = batch_norm(wide, batch_axes) + eps
            return divide_or_zero(wide, norm).astype(g.dtype)

        return jax.tree.map(one, updates), state

    return transformation(init, update)

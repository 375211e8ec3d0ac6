"""Run a transformation on each block by itself, with a state of its own."""

from typing import Any

import jax
import optax

from precond.arguments import as_direction, check_transformation, described
from precond.blocks import BlockInfo, info_of, keep_finite
from precond.transformation import transformation

__all__ = ["per_block"]


@described()
def per_block(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on each block of each stack by itself.

    A count is then a count of the block's own steps, and a norm is the block's norm. The state of a block whose
    gradient is not finite (`precond.BlockInfo.finite`) stays as it was: its momentum and its bias correction go on in
    the next finite step as if this one had not been. Put it around any of Optax's transformations that is used inside
    `blocked`; `scale_by_kronecker` does so for its momentum.

    Args:
      inner: a transformation, which sees one block at a time.

    Returns:
      A transformation of stacks `[N, d1, .., dk]`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond import BlockInfo
      >>> tx, stacks = per_block(optax.ema(0.5)), {"2": jnp.ones((3, 2))}
      >>> state = tx.init(stacks)
      >>> _, state = tx.update(
      ...     stacks, state, blocks=BlockInfo(finite={"2": jnp.asarray([True, False, True])})
      ... )
      >>> state["2"].count.tolist()
      [1, 0, 1]
    """
    check_transformation("inner", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> optax.OptState:
        return jax.tree.map(jax.vmap(inner.init), params)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        leaves, treedef = jax.tree.flatten(updates)
        info = info_of(blocks)
        inside = BlockInfo(any_finite=info.any_finite)

        def parts(tree: Any) -> list[Any]:
            return [None] * len(leaves) if tree is None else treedef.flatten_up_to(tree)

        def one(u: Any, s: Any, p: Any, g: Any) -> tuple[Any, Any]:
            return inner.update(u, s, p, **extra, blocks=inside._replace(gradients=g))

        out = []
        columns = map(parts, (state, params, info.gradients, info.finite))
        for u, s, p, g, ok in zip(leaves, *columns, strict=True):
            moved, new = jax.vmap(one)(u, s, p, g)
            out.append((moved, keep_finite(ok, new, s)))
        return treedef.unflatten([m for m, _ in out]), treedef.unflatten([n for _, n in out])

    return as_direction(transformation(init, update), like=inner)

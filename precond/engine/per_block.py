"""Every block with a state of its own, which a gradient that is not finite does not touch."""

from typing import Any

import jax
import optax

from precond.blocks import keep_finite

__all__ = ["per_block"]


def per_block(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on each block of each stack by itself.

    A count is then a count of the block's own steps and a norm is the block's norm. With the extra argument `finite`,
    which `precond.blocked` gives, the state of a block whose gradient is not finite stays as it was: its momentum and
    its bias correction go on in the next finite step as if this one had not been. Around any of Optax's
    transformations that are used inside `blocked` (`scale_by_kronecker` does it for its momentum).

    Args:
      inner: any transformation; it sees one block at a time, and `batch_axes=0`.

    Returns:
      A transformation of stacks `[N, d1, .., dk]`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx, stacks = per_block(optax.ema(0.5)), {"2": jnp.ones((3, 2))}
      >>> state = tx.init(stacks)
      >>> _, state = tx.update(stacks, state, finite={"2": jnp.asarray([True, False, True])})
      >>> state["2"].count.tolist()
      [1, 0, 1]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        return jax.tree.map(jax.vmap(inner.init), params)

    def update(
        updates: Any, state: Any, params: Any = None, *, finite: Any = None, gradients: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.flatten(updates)
        extra["batch_axes"] = 0

        def parts(tree: Any) -> list[Any]:
            return [None] * len(leaves) if tree is None else treedef.flatten_up_to(tree)

        def one(u: Any, s: Any, p: Any, g: Any) -> tuple[Any, Any]:
            more = extra if g is None else extra | {"gradients": g}
            return inner.update(u, s, p, **more)

        out = []
        for u, s, p, g, ok in zip(leaves, parts(state), parts(params), parts(gradients), parts(finite), strict=True):
            moved, new = jax.vmap(one)(u, s, p, g)
            out.append((moved, keep_finite(ok, new, s)))
        return treedef.unflatten([m for m, _ in out]), treedef.unflatten([n for _, n in out])

    return optax.GradientTransformationExtraArgs(init, update)

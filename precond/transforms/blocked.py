"""From parameters to stacks of blocks and back: what makes a transformation of stacks one of parameters."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_whole
from precond.blocks import Views, as_views, finite_blocks, keep_finite, layout_of
from precond.mesh import with_local_arrays

__all__ = ["BlockedState", "blocked"]


class BlockedState(NamedTuple):
    """What `blocked` keeps.

    Attributes:
      stacks: the state of the inner transformation; an empty array where no parameter has a view.
      otherwise: the state of the transformation of the parameters without a view.
      skipped: blocks so far whose gradient was not finite; all parameters without a view count as one.
      idle: updates so far in which this was so for all of them.
    """

    stacks: Any
    otherwise: Any
    skipped: jax.Array
    idle: jax.Array


def blocked(
    inner: optax.GradientTransformation,
    *,
    block_size: int | None = 1024,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on stacks of equal blocks, `[N, d1, .., dk]`, cut from all parameters.

    Every parameter is read through its view as a batch of tensors, the tensors are cut into blocks of at most
    `block_size` an axis, and all blocks of one shape, whatever their parameter, form one array. The inner
    transformation sees a dictionary of these stacks, named by their block's shape, of float32 or wider; it is
    initialised on stacks of zeros, and gets the extra argument `batch_axes=1`. The number of stacks, and with it the
    length of the program, does not depend on the network's depth.

    A block whose gradient's sum of squares is not finite is skipped: its update is zero, the inner transformation
    sees zeros in its place, and the extra argument `finite` (whether each block is, by stack) by which the parts of
    this library leave what they keep of the block as it was (only its root may still have its turn to be refreshed).
    The parameters without a view are skipped together, and a step in which all is skipped is none at all.

    Args:
      inner: any transformation of stacks; whatever it keeps has no parameter's shape.
      block_size: the longest side of a block; None cuts nothing. The last block of an axis may be shorter.
      views: from path and parameter to a `precond.View` or None; a list of (pattern, view) pairs; or None for
        `precond.default_views`.
      otherwise: for parameters without a view (biases, norms, embeddings, anything of size 0). None takes
        `optax.scale_by_adam()`.
      skipped: the update of what is skipped. 0, or NaN to tell a later transformation what must not move.

    Returns:
      A transformation of parameters; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a block size that is no positive integer, views of another kind; and in `init` for a
        view that does not fit its parameter.

    Examples:
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> tx = blocked(optax.scale(2.0), block_size=4, otherwise=optax.scale(3.0))
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates["kernel"].mean().item(), updates["bias"].mean().item()
      (2.0, 3.0)
    """
    if block_size is not None:
        check_whole("block_size", block_size, least=1)
    view_of = as_views(views)
    inner = optax.with_extra_args_support(inner)
    otherwise = optax.scale_by_adam() if otherwise is None else otherwise

    def unviewed(tree: Any) -> Any:
        viewed = layout_of(tree, view_of, block_size).viewed
        return jax.tree.unflatten(jax.tree.structure(tree), [not v for v in viewed])

    rest = optax.masked(otherwise, unviewed)

    def init(params: Any) -> BlockedState:
        # One array that stands for everything: on a tree without leaves optax.tree.map_params takes this for the
        # prefix of whatever the stacks' state is, and leaves it alone.
        state = jnp.zeros((0,))
        stacks = layout_of(params, view_of, block_size).stacks
        if stacks:
            state = inner.init({name: jnp.zeros(s.shape, s.dtype) for name, s in stacks.items()})
        return BlockedState(state, rest.init(params), jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32))

    def update_rest(updates: Any, viewed: Any, state: Any, params: Any, extra: Any) -> tuple[Any, Any, Any]:
        alone = [x for x, v in zip(jax.tree.leaves(updates), viewed, strict=True) if not v]
        out, new = rest.update(updates, state, params, **extra)
        out = optax.tree.cast_like(out, updates)
        if not alone:
            return out, new, []
        finite = functools.reduce(jnp.logical_and, [finite_blocks(x[None])[0] for x in alone])
        out = jax.tree.map(lambda x: jnp.where(finite, x, jnp.full_like(x, skipped)), out)
        return out, optax.tree.where(finite, new, state), [finite]

    def update_stacks(layout: Any, leaves: Any, state: Any, params: Any, extra: Any) -> tuple[Any, Any, Any]:
        stacks = layout.pack(leaves)
        finite = {name: finite_blocks(x) for name, x in stacks.items()}
        stacks = {name: keep_finite(finite[name], x, jnp.zeros_like(x)) for name, x in stacks.items()}
        packed: Any = None if params is None else layout.pack([jnp.asarray(p) for p in jax.tree.leaves(params)])
        moved: Any
        moved, inside = inner.update(stacks, state, packed, **(extra | {"batch_axes": 1, "finite": finite}))
        out = {name: keep_finite(finite[name], x, jnp.full_like(x, skipped)) for name, x in moved.items()}
        return out, inside, list(finite.values())

    @with_local_arrays
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates = jax.tree.map(jnp.asarray, updates)
        layout = layout_of(updates, view_of, block_size)
        leaves, treedef = jax.tree.flatten(updates)
        out, others, finite = update_rest(updates, layout.viewed, state.otherwise, params, extra)
        inside = state.stacks
        if layout.stacks:
            stacks, inside, more = update_stacks(layout, leaves, state.stacks, params, extra)
            finite += more
            out = treedef.unflatten(layout.unpack(stacks, jax.tree.leaves(out)))
        lost = functools.reduce(jnp.add, [jnp.sum(~x, dtype=jnp.int32) for x in finite], jnp.zeros([], jnp.int32))
        idle = (lost == sum(x.size for x in finite)) & (lost > 0)
        return out, BlockedState(inside, others, state.skipped + lost, state.idle + idle)

    return optax.GradientTransformationExtraArgs(init, update)

"""Run one transformation on the stacks of the parameters that have a view, and another one on the other parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_signs, check_transformation, described, refuse_optimizers
from precond.blocks import BlockSize, StackedState, Views, info_of, refuse_foreign, without_info
from precond.compiled_if_eager import compiled_if_eager
from precond.engine.skip_nonfinite import SkipNonfiniteState, skip_nonfinite
from precond.engine.stacked import stacked, viewed_by
from precond.mesh import Sharded
from precond.transformation import transformation
from precond.trees import Tree

__all__ = ["BlockedState", "blocked"]


class BlockedState(NamedTuple):
    """Hold the state of `blocked`.

    Attributes:
      stacks: a `StackedState`, for the parameters that have a view.
      otherwise: Optax's `MaskedState` of a `SkipNonfiniteState`, for the parameters without a view.
      steps_skipped: the number of updates so far in which all parameters were skipped.
    """

    stacks: StackedState
    otherwise: optax.MaskedState
    steps_skipped: jax.Array

    @property
    def blocks_skipped(self) -> jax.Array:
        """Blocks skipped so far; all parameters without a view count as one."""
        rest = cast(SkipNonfiniteState, self.otherwise.inner_state)
        return self.stacks.blocks_skipped + rest.steps_skipped


@described(explain=True)
def blocked(
    inner: optax.GradientTransformation,
    *,
    block_size: BlockSize = 1024,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    skipped: float = 0.0,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on stacks of equal blocks, `[N, d1, .., dk]`, cut from all parameters.

    Every parameter is read through its view as a batch of tensors, and the tensors are cut into blocks of at most
    `block_size` an axis. All blocks of one shape form one array, also those of different parameters. The inner
    transformation sees a dictionary of these stacks, named by the shape of their blocks, in float32 or wider. It is
    initialised on stacks of zeros, and its update gets the extra argument `blocks`, a `precond.BlockInfo`. The number
    of stacks, and with it the length of the program, does not depend on the network's depth.

    A block is skipped if the sum of squares of its gradient is not finite. Its update is zero, the inner
    transformation sees zeros in its place, and `blocks.finite` marks it. The parts of this library then keep the state
    of that block; put `precond.per_block` around parts of Optax. The parameters without a view are skipped together. If
    everything is skipped, the step does not count.

    The state knows the parameters that it was made for: their paths, how they are read, and the order of their blocks.
    Outside of `jax.jit` a state of other parameters is refused. Inside, where nothing can be raised, its updates are
    infinite, and `precond.metrics` counts them as `blocks/foreign`.

    Args:
      inner: a transformation of stacks. Its state is shaped like the stacks, not like the parameters.
      block_size: the longest side of a block. A longer axis is cut into the fewest pieces, which are equal if it
        divides; else the last one is shorter. None cuts nothing, and `precond.ragged` cuts as the references do.
      views: a function from path and parameter to a `precond.View` or None; a list of (pattern, view) pairs; or None
        for `precond.views.default`.
      otherwise: the transformation of the parameters without a view (biases, norms, embeddings, anything of size 0). It
        computes in float32 or wider. None takes `optax.scale_by_adam(eps=1e-15)`.
      skipped: the update of a skipped block: 0, or minus infinity, which marks what a later transformation must leave
        unchanged.
      axis: the mesh axis, or axes, over whose devices the stacks are divided, or a `precond.sharded` that says more.
        Each device then keeps the state of its own blocks alone, and everything in `inner` is computed for these,
        block by block; directions are gathered. None divides nothing, and neither does a name if there is
        no mesh. A part that changes a block by the others, such as `optax.clip_by_global_norm`, is refused.
      mesh: the mesh to take where none is in the context (`jax.set_mesh`); None takes that of the arrays.

    Returns:
      A transformation of parameters; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a block size that is not a positive integer, and for views, transformations or a mesh
        of another kind; in `init` for a parameter of integers, and for a view that does not fit its parameter; also for
        an axis that the mesh does not have, or whose size does not divide the `multiple`; and in `update` for a
        gradient that has not its parameter's shape, and for a state of other parameters, which
        `precond.checkpoints.adopt` takes over as far as it fits.

    Examples:
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> tx = blocked(optax.scale(2.0), block_size=4, otherwise=optax.scale(3.0))
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates["kernel"].mean().item(), updates["bias"].mean().item()
      (2.0, 3.0)
    """
    otherwise = optax.scale_by_adam(eps=1e-15) if otherwise is None else otherwise
    check_transformation("otherwise", otherwise)
    refuse_optimizers("inner", inner)
    first = stacked(inner, block_size=block_size, views=views, skipped=skipped, axis=axis, mesh=mesh)

    def unviewed(tree: Tree) -> Tree:
        return jax.tree.map(lambda viewed: not viewed, viewed_by(views, tree))

    second = optax.masked(skip_nonfinite(otherwise, skipped=skipped), unviewed)

    def init(params: optax.Params) -> BlockedState:
        check_signs({"inner": inner, "otherwise": otherwise}, {"otherwise": params})
        return BlockedState(
            cast(StackedState, first.init(params)),
            cast(optax.MaskedState, second.init(params)),
            jnp.zeros([], jnp.int32),
        )

    def update(
        updates: optax.Updates, state: BlockedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, BlockedState]:
        if info_of(extra.get("blocks")).batch_axes:
            raise ValueError(
                "A precond.blocked, or an optimizer made of it, runs within another one, where it sees stacks of "
                "blocks and no parameters. Use it alone, or give the part of it that belongs on stacks."
            )
        updates, extra = jax.tree.map(jnp.asarray, updates), without_info(extra)
        moved, new = first.update(updates, state.stacks, params, **extra)
        stacks = cast(StackedState, new)
        out, rest = second.update(moved, state.otherwise, params, **extra)
        # The engine makes the updates of blocks infinite where its state is of other parameters, and here the others.
        foreign, mask = stacks.foreign > state.stacks.foreign, viewed_by(views, updates)
        out = jax.tree.map(lambda has, x: x if has else jnp.where(foreign, jnp.inf, x).astype(x.dtype), mask, out)
        viewed = jax.tree.leaves(mask)
        skipped = _all_skipped(state, stacks, rest, any(viewed), not all(viewed))
        return out, BlockedState(stacks, cast(optax.MaskedState, rest), state.steps_skipped + skipped)

    return refuse_foreign(compiled_if_eager(transformation(init, update)))


def _all_skipped(before: Any, stacks: Any, rest: Any, viewed: bool, others: bool) -> jax.Array:
    """Return whether a step skipped every block and every parameter without a view."""
    checks = []
    if viewed:
        checks.append(stacks.steps_skipped > before.stacks.steps_skipped)
    if others:
        checks.append(rest.inner_state.steps_skipped > before.otherwise.inner_state.steps_skipped)
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(False)

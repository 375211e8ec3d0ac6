"""Run a transformation of stacks on the parameters that have a view: pack them, run it on every shard, and unpack."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType

from precond.arguments import check_part, check_transformation, check_whole
from precond.blocks import (
    BlockSize,
    Ragged,
    StackedState,
    Views,
    as_views,
    block_ids_of,
    check_block_ids,
    check_inner,
    check_leaves,
    check_shapes,
    fingerprint,
    hashed,
    layout_of,
    meaning_of,
    report_readings,
)
from precond.boxes import boxed_like, find_box, unboxed
from precond.engine.row_shardings_of import stack_row_shardings
from precond.engine.run_stacks import run_stacks
from precond.engine.skip_nonfinite import check_skipped
from precond.engine.stacking import Stacking
from precond.mesh import (
    Sharded,
    as_sharded,
    in_boxes,
    init_sharded,
    match_sharding,
    refuse_other_mesh,
    replicate,
    without_mesh,
)
from precond.transformation import transformation
from precond.trees import Tree

__all__ = ["stacked", "viewed_by"]


def viewed_by(views: Views | Sequence[Any] | None, tree: Tree) -> Tree:
    """Return for every parameter whether `stacked` takes it: a tree of booleans.

    Args:
      views: as in `precond.blocked`.
      tree: a tree of parameters, or of gradients.

    Examples:
      >>> viewed_by(None, {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)})
      {'bias': False, 'kernel': True}
    """
    viewed = layout_of(tree, as_views(views), None).viewed
    return jax.tree.unflatten(jax.tree.structure(tree), list(viewed))


def stacked(
    inner: optax.GradientTransformation,
    *,
    block_size: BlockSize = 1024,
    views: Views | Sequence[Any] | None = None,
    skipped: float = 0.0,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on stacks of equal blocks, and leave the parameters without a view as they are.

    It is the first half of `precond.blocked`, whose arguments these are.

    Args:
      inner: as in `precond.blocked`.
      block_size: as in `precond.blocked`.
      views: as in `precond.blocked`.
      skipped: as in `precond.blocked`.
      axis: as in `precond.blocked`.
      mesh: as in `precond.blocked`.

    Examples:
      >>> tx = stacked(optax.scale(2.0))
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates["kernel"].mean().item(), updates["bias"].mean().item()
      (2.0, 1.0)
    """
    if block_size is not None and not isinstance(block_size, Ragged):
        check_whole("block_size", block_size, least=1)
    check_transformation("inner", inner)
    if mesh is not None:
        check_part("mesh", mesh, jax.sharding.Mesh, "jax.make_mesh((8,), ('data',))")
        if axis is None:
            raise ValueError("mesh= without axis= divides nothing: name the axes of the mesh, as in axis='data'.")
    check_skipped(skipped)
    sharding = as_sharded(axis)
    rounded = inner if sharding.rounding is None else optax.chain(inner, sharding.rounding)
    inner = optax.with_extra_args_support(rounded)
    options = Stacking(inner, as_views(views), block_size, skipped, sharding, mesh)

    def update(
        updates: optax.Updates, state: StackedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, StackedState]:
        return _update(options, updates, state, params, extra)

    return transformation(lambda params: _init(options, params), update)


def _init(options: Stacking, params: optax.Params) -> StackedState:
    check_leaves(params)
    layout = options.layout(params)
    _, meaning = meaning_of(options.inner, layout)
    report_readings(params, options.views, options.block_size, layout, meaning)
    # On a tree without leaves, the state of the stacks is one empty array. Without any array there,
    # optax.tree.map_params would raise.
    made = jnp.zeros((0,)), jnp.zeros((0,), jnp.int32)
    placement, stacks = options.placement(layout, params), layout.stacks

    def make() -> tuple[optax.OptState, Any]:
        state = options.inner.init({name: jnp.zeros(s.shape, s.dtype) for name, s in stacks.items()})
        return state, jax.tree.map(jnp.asarray, block_ids_of(layout))

    if stacks:
        made = init_sharded(placement, make, stack_row_shardings(options.inner, layout, placement), params)
        box, place = find_box(params), placement or without_mesh(options.sharding)
        made = made if box is None else in_boxes(made, stack_row_shardings(options.inner, layout, place), box, place)
    # Every zero is an array of its own, since no array can be donated twice.
    return StackedState(
        stacks=made[0],
        blocks_skipped=jnp.int32(0),
        steps_skipped=jnp.int32(0),
        block_ids=made[1],
        fingerprint=jnp.int32(fingerprint(layout)),
        meaning=jnp.int32(hashed(meaning)),
        foreign=jnp.int32(0),
    )


def _update(
    options: Stacking,
    updates: optax.Updates,
    state: StackedState,
    params: optax.Params | None,
    extra: dict[str, Any],
) -> tuple[optax.Updates, StackedState]:
    check_shapes(updates, params)
    updates = jax.tree.map(jnp.asarray, updates)
    layout = options.layout(updates)
    given, state = state, unboxed(state)
    if not layout.stacks:
        foreign = state.fingerprint != fingerprint(layout)
        return updates, boxed_like(state._replace(foreign=state.foreign + foreign), given)
    leaves, treedef = jax.tree.flatten(updates)
    placement = options.placement(layout, leaves)
    if placement is None:
        refuse_other_mesh(options.sharding, state)
    divided = placement is not None and placement.kind == AxisType.Manual
    check_block_ids(state.block_ids, layout, divided=divided)
    expected, meaning = meaning_of(options.inner, layout)
    check_inner(state.stacks, expected, divided=divided)
    foreign = (state.fingerprint != fingerprint(layout)) | (state.meaning != hashed(meaning))
    moved, inner, skipped = run_stacks(
        options, layout, placement, leaves, state.stacks, params, replicate(extra), foreign
    )
    out = [match_sharding(m, x) if v else x for v, m, x in zip(layout.viewed, moved, leaves, strict=True)]
    after = state._replace(
        stacks=inner,
        blocks_skipped=state.blocks_skipped + skipped,
        steps_skipped=state.steps_skipped + (skipped == sum(layout.blocks.values())),
        foreign=state.foreign + foreign,
    )
    return treedef.unflatten(out), boxed_like(after, given)

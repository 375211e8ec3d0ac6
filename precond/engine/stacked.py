"""Run a transformation of stacks on the parameters that have a view: pack them, run it on every shard, and unpack."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

from precond.arguments import check_part, check_transformation, check_whole
from precond.blocks import (
    BlockInfo,
    BlockSize,
    Layout,
    Ragged,
    Views,
    as_views,
    block_ids_of,
    check_block_ids,
    check_inner,
    check_leaves,
    check_shapes,
    fingerprint,
    finite_blocks,
    hashed,
    keep_finite,
    layout_of,
    mask_blocks,
    report_readings,
)
from precond.boxes import boxed_like, find_box, unboxed
from precond.engine.choose_root_axes import choose_root_axes
from precond.engine.row_shardings_of import row_shardings_of, stack_row_shardings
from precond.engine.skip_nonfinite import check_skipped
from precond.engine.stacked_state import StackedState, meaning_of
from precond.mesh import (
    Placement,
    Sharded,
    as_sharded,
    collectives_over,
    find_placement,
    in_boxes,
    init_sharded,
    match_sharding,
    on_shards,
    replicate,
    reshard_in,
    warn_if_whole,
    without_mesh,
)
from precond.routes import route_of
from precond.scopes import named
from precond.transformation import transformation
from precond.trees import Tree

__all__ = ["stacked", "viewed_by"]


class Stacking(NamedTuple):
    """Hold the checked arguments of `stacked`."""

    inner: optax.GradientTransformationExtraArgs
    views: Views
    block_size: BlockSize
    skipped: float
    sharding: Sharded
    mesh: jax.sharding.Mesh | None

    def layout(self, tree: Tree) -> Layout:
        """Return the layout of a tree of parameters, or of gradients."""
        return layout_of(tree, self.views, self.block_size, self.sharding.multiple)

    @property
    def rounds(self) -> bool:
        """Whether directions are rounded by a transformation before they are gathered."""
        return self.sharding.rounding is not None

    def gather_dtypes(self, layout: Layout, leaves: Sequence[Any]) -> dict[str, Any]:
        """Return by stack the dtype in which directions are gathered."""
        if self.rounds:
            return {name: stack.dtype for name, stack in layout.stacks.items()}
        dtype = self.sharding.gather_dtype
        return layout.dtypes(leaves) if dtype is None else dict.fromkeys(layout.stacks, dtype)

    def placement(self, layout: Layout, tree: Tree) -> Placement | None:
        """Return where the stacks are sharded."""
        dtypes = self.gather_dtypes(layout, jax.tree.leaves(jax.eval_shape(lambda t: t, tree)))
        found = find_placement(self.sharding, self.mesh, tree)
        return choose_root_axes(found, self.sharding, self.inner, layout.stacks, dtypes)


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
    # One array replaces the whole state of the stacks. On a tree without leaves optax.tree.map_params takes it for a
    # prefix of this state, and leaves it alone.
    made = jnp.zeros((0,)), jnp.zeros((0,), jnp.int32)
    placement, stacks = options.placement(layout, params), layout.stacks

    def make() -> tuple[optax.OptState, Any]:
        state = options.inner.init({name: jnp.zeros(s.shape, s.dtype) for name, s in stacks.items()})
        return state, jax.tree.map(jnp.asarray, block_ids_of(layout))

    if stacks:
        made = init_sharded(placement, make, stack_row_shardings(options.inner, layout, placement), params)
        box, place = find_box(params), placement or without_mesh(options.sharding)
        made = made if box is None else in_boxes(made, stack_row_shardings(options.inner, layout, place), box, place)
    numbers = (jnp.int32(x) for x in (0, 0, fingerprint(layout), hashed(meaning), 0))
    return StackedState(made[0], next(numbers), next(numbers), made[1], *numbers)


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
    divided = placement is not None and placement.kind == AxisType.Manual
    check_block_ids(state.block_ids, layout, divided=divided)
    expected, meaning = meaning_of(options.inner, layout)
    check_inner(state.stacks, expected, divided=divided)
    foreign = (state.fingerprint != fingerprint(layout)) | (state.meaning != hashed(meaning))
    moved, inner, skipped = _run(options, layout, leaves, state.stacks, params, replicate(extra), foreign, placement)
    out = [match_sharding(m, x) if v else x for v, m, x in zip(layout.viewed, moved, leaves, strict=True)]
    after = state._replace(
        stacks=inner,
        blocks_skipped=state.blocks_skipped + skipped,
        steps_skipped=state.steps_skipped + (skipped == sum(layout.blocks.values())),
        foreign=state.foreign + foreign,
    )
    return treedef.unflatten(out), boxed_like(after, given)


def _run(
    options: Stacking,
    layout: Layout,
    leaves: Any,
    state: Any,
    params: Any,
    extra: Any,
    foreign: jax.Array,
    placement: Placement | None,
) -> tuple[Any, Any, jax.Array]:
    """Run the inner transformation on every shard. If the state belongs to other parameters, updates are infinite.

    Returns:
      The leaves of the updates, the new state, and the number of blocks that were skipped.
    """
    arrays, rebuild = _arrays(extra)
    directions, roots = (collectives_over(None if placement is None else placement.over(a)) for a in _axes(placement))
    route = route_of(layout, leaves, placement, directions, options.sharding)
    dtypes = options.gather_dtypes(layout, leaves)
    total = sum(layout.blocks.values())
    row_groups = options.sharding.multiple // (1 if placement is None else placement.count)

    def entered(tree: Any) -> list[Any]:
        pairs = zip(jax.tree.leaves(tree), route.specs, layout.viewed, strict=True)
        return [reshard_in(placement, jnp.asarray(x), spec) if v else None for x, spec, v in pairs]

    def body(given: Any, state: Any) -> tuple[Any, Any]:
        leaves, params, extra, foreign = given[0], given[1], rebuild(given[2]), given[3]
        params = None if params is None else route.pack(params)
        with named("stacks", _counted(layout)):
            stacks = route.pack(leaves)
            finite = {name: finite_blocks(x) for name, x in stacks.items()}
        # The rows that pad a stack are zero, so they count as finite.
        skipped = directions.psum(functools.reduce(jnp.add, [jnp.sum(~x, dtype=jnp.int32) for x in finite.values()]))
        extra.pop("blocks", None)
        info = BlockInfo(
            finite=finite,
            any_finite=skipped < total,
            index=directions.local({name: jnp.arange(x.shape[0]) for name, x in layout.stacks.items()}),
            origins=layout.origins(),
            batch_axes=1,
            row_groups=row_groups,
            collectives=directions,
            root_collectives=roots,
        )
        stacks = {name: mask_blocks(finite[name], x) for name, x in stacks.items()}
        moved, new = cast(Any, options.inner.update(stacks, state, params, **extra, blocks=info))
        # Updates become infinite, so that nobody trains on with the statistics of other parameters.
        other = jnp.where(foreign, jnp.inf, options.skipped)
        out = {n: keep_finite(finite[n] & ~foreign, x, jnp.full_like(x, other)) for n, x in moved.items()}
        out = out if options.rounds else {name: x.astype(dtypes[name]) for name, x in out.items()}
        return (route.unpack(out, leaves), skipped), new

    row_shardings = row_shardings_of(options.inner, layout.stacks, placement)
    warn_if_whole(placement, state, row_shardings)
    (out, skipped), new = on_shards(
        body,
        placement,
        (entered(leaves), None if params is None else entered(params), arrays, foreign),
        state,
        row_shardings,
        in_specs=(route.specs, None if params is None else route.specs, PartitionSpec(), PartitionSpec()),
        out_specs=(route.specs, PartitionSpec()),
    )
    return out, new, skipped


def _counted(layout: Layout) -> str:
    """Count the blocks of each stack in words, for `precond.plan`."""
    return ", ".join(f"{layout.blocks[name]} of {x.shape[0]} {name}" for name, x in layout.stacks.items())


def _axes(placement: Placement | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return ((), ()) if placement is None else (placement.direction_axes, placement.root_axes)


def _arrays(extra: dict[str, Any]) -> tuple[list[Any], Callable[[list[Any]], dict[str, Any]]]:
    """Return the arrays among extra arguments, for `shard_map`, and a function that puts others in their places."""
    leaves, treedef = jax.tree.flatten(extra)
    which = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)]

    def rebuild(arrays: list[Any]) -> dict[str, Any]:
        filled = list(leaves)
        for i, x in zip(which, arrays, strict=True):
            filled[i] = x
        return treedef.unflatten(filled)

    return [leaves[i] for i in which], rebuild

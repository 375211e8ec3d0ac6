"""From parameters to stacks of blocks and back: what makes a transformation of stacks one of parameters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from precond.arguments import check_part, check_transformation, check_whole
from precond.blocks import (
    Layout,
    Views,
    any_finite,
    as_views,
    check_leaves,
    check_shapes,
    finite_blocks,
    keep_finite,
    layout_of,
    tell_readings,
)
from precond.engine.gathering import choose
from precond.engine.kronecker import KroneckerState
from precond.engine.route import Route, best_axes, come_divided, divided_route, whole_route
from precond.mesh import (
    WHOLE,
    Extent,
    Place,
    Sharded,
    Share,
    Stacked,
    as_sharded,
    as_typed,
    born,
    entering,
    find_place,
    local_arrays,
    on_shards,
    share_of,
)

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
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
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
      axis: the mesh axis, or axes, over whose devices the stacks are divided, or a `precond.sharded` that says more.
        Each device then keeps the state of its own blocks alone, and everything in `inner` is computed for these,
        block by block; directions are gathered once. None divides nothing, and neither does a name where there is no
        mesh. What is not computed block by block (`optax.clip_by_global_norm`) must stand outside.
      mesh: the mesh to take where none is in the context (`jax.set_mesh`) nor known from the arrays.

    Returns:
      A transformation of parameters; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a block size that is no positive integer, and for views, transformations or a mesh of
        another kind; in `init` for a parameter of integers, for a view that does not fit its parameter, and for an
        axis that the mesh does not have or whose size does not divide the `multiple`; and in `update` for a gradient
        that has not its parameter's shape.

    Examples:
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}
      >>> tx = blocked(optax.scale(2.0), block_size=4, otherwise=optax.scale(3.0))
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates["kernel"].mean().item(), updates["bias"].mean().item()
      (2.0, 3.0)
    """
    if block_size is not None:
        check_whole("block_size", block_size, least=1)
    otherwise = optax.scale_by_adam() if otherwise is None else otherwise
    check_transformation("inner", inner)
    check_transformation("otherwise", otherwise)
    if mesh is not None:
        check_part("mesh", mesh, jax.sharding.Mesh, "jax.make_mesh((8,), ('data',))")
    how = as_sharded(axis)
    view_of = as_views(views)
    rounded = isinstance(how.wire, optax.GradientTransformation)
    inner = optax.with_extra_args_support(optax.chain(inner, how.wire) if rounded else inner)

    def layout_of_(tree: Any) -> Layout:
        return layout_of(tree, view_of, block_size, how.multiple)

    def unviewed(tree: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(tree), [not v for v in layout_of_(tree).viewed])

    rest = optax.masked(otherwise, unviewed)

    def wires_of(layout: Layout, leaves: Any) -> dict[str, Any]:
        if rounded:  # to what is sent already
            return {name: stack.dtype for name, stack in layout.stacks.items()}
        return layout.dtypes(leaves) if how.wire is None else dict.fromkeys(layout.stacks, how.wire)

    def find(layout: Layout, tree: Any) -> Place | None:
        wires = wires_of(layout, jax.tree.leaves(jax.eval_shape(lambda t: t, tree)))
        return choose(find_place(how, mesh, tree), how, inner, layout.stacks, wires)

    def init(params: Any) -> BlockedState:
        check_leaves(params)
        tell_readings(params, view_of, block_size)
        # One array that stands for everything: on a tree without leaves optax.tree.map_params takes this for the
        # prefix of whatever the stacks' state is, and leaves it alone.
        state, layout = jnp.zeros((0,)), layout_of_(params)
        place, stacks = find(layout, params), layout.stacks

        def make() -> Any:
            return inner.init({name: jnp.zeros(s.shape, s.dtype) for name, s in stacks.items()})

        if stacks:
            state = born(place, make, None if place is None else _extents(inner, stacks, place), params)
        return BlockedState(state, rest.init(params), jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32))

    def update_rest(updates: Any, viewed: Any, state: Any, params: Any, extra: Any) -> tuple[Any, Any, Any]:
        alone = [x for x, v in zip(jax.tree.leaves(updates), viewed, strict=True) if not v]
        out, new = rest.update(updates, state, params, **extra)
        out = optax.tree.cast_like(out, updates)
        if not alone:
            return out, new, []
        finite = functools.reduce(jnp.logical_and, [finite_blocks(x[None])[0] for x in alone])
        out = jax.tree.map(lambda x: jnp.where(finite, x, jnp.full_like(x, skipped)), out)
        return out, optax.tree.where(finite, jax.tree.map(as_typed, new, state), state), [finite]

    def update_stacks(
        layout: Layout, leaves: Any, state: Any, params: Any, extra: Any, place: Place | None
    ) -> tuple[Any, Any, Any]:
        sections = how.multiple // (1 if place is None else place.count)
        arrays, rebuild = _arrays(extra)
        share, among = (WHOLE, WHOLE) if place is None else (share_of(place.over(a)) for a in place.levels)
        route = _route(layout, leaves, place, share, how)

        def entered(tree: Any) -> list[Any]:
            leaves = zip(jax.tree.leaves(tree), route.specs, layout.viewed, strict=True)
            return [entering(place, jnp.asarray(x), spec) if v else None for x, spec, v in leaves]

        def body(given: Any, state: Any) -> tuple[Any, Any]:
            leaves, params, given = given[0], given[1], rebuild(given[2])
            stacks, good, blocks = route.arrive(leaves)
            params = None if params is None else route.own(params)
            given = {name: share.own(x.tree) if isinstance(x, Stacked) else x for name, x in given.items()}
            stacks = {name: keep_finite(good[name], x, jnp.zeros_like(x)) for name, x in stacks.items()}
            given |= {"batch_axes": 1, "finite": good, "going": any_finite(blocks)}
            index = share.own({name: jnp.arange(x.shape[0]) for name, x in layout.stacks.items()})
            given |= {"sections": sections, "total": share.total, "index": index, "share": among}
            moved: Any
            moved, new = inner.update(stacks, state, params, **given)
            out = {name: keep_finite(good[name], x, jnp.full_like(x, skipped)) for name, x in moved.items()}
            out = out if rounded else {name: x.astype(wires[name]) for name, x in out.items()}
            return (route.back(out, leaves), blocks), new

        wires = wires_of(layout, leaves)
        (out, finite), new = on_shards(
            body,
            place,
            (entered(leaves), None if params is None else entered(params), arrays),
            state,
            None if place is None else _extents(inner, layout.stacks, place),
            coming=(route.specs, None if params is None else route.specs, PartitionSpec()),
            going=(route.specs, PartitionSpec()),
        )
        return out, new, list(finite.values())

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        check_shapes(updates, params)
        updates, extra = jax.tree.map(jnp.asarray, updates), local_arrays(extra)
        layout = layout_of_(updates)
        leaves, treedef = jax.tree.flatten(updates)
        out, others, finite = update_rest(updates, layout.viewed, state.otherwise, params, extra)
        inside = state.stacks
        if layout.stacks:
            place = find(layout, leaves)
            moved, inside, more = update_stacks(layout, leaves, state.stacks, params, extra, place)
            finite += more
            pairs = zip(layout.viewed, moved, jax.tree.leaves(out), strict=True)
            out = treedef.unflatten([mine if v else other for v, mine, other in pairs])
        out = jax.tree.map(as_typed, out, updates)
        lost = functools.reduce(jnp.add, [jnp.sum(~x, dtype=jnp.int32) for x in finite], jnp.zeros([], jnp.int32))
        idle = (lost == sum(x.size for x in finite)) & (lost > 0)
        return out, BlockedState(inside, others, state.skipped + lost, state.idle + idle)

    return optax.GradientTransformationExtraArgs(init, update)


def _route(layout: Layout, leaves: Sequence[jax.Array], place: Place | None, share: Share, how: Sharded) -> Route:
    """Whole gradients come to every device, and divided ones to the owners of their blocks."""
    viewed = [x for x, v in zip(leaves, layout.viewed, strict=True) if v]
    if place is None or not come_divided(place, how, viewed):
        return whole_route(layout, leaves, share)
    return divided_route(layout, leaves, share, place.levels[0], [best_axes(x) for x in leaves])


def _extents(inner: optax.GradientTransformation, stacks: dict[str, jax.ShapeDtypeStruct], place: Place) -> Any:
    """Which arrays of the state have the length of a stack, and over which axes it is divided."""

    def state(times: int) -> Any:
        longer = {n: jax.ShapeDtypeStruct((times * s.shape[0], *s.shape[1:]), s.dtype) for n, s in stacks.items()}
        return jax.eval_shape(lambda stacks: inner.init(stacks), longer)  # not from a cache: see `describing`

    # What has the length of a stack by chance does not grow with it.
    once = state(1)
    lengths = jax.tree.map(lambda one, two: one.shape[0] if one.shape != two.shape else 0, once, state(2))

    def over(axes: tuple[str, ...], lengths: Any) -> Any:
        return jax.tree.map(lambda n: Extent(n, axes) if n else Extent(), lengths)

    def engine(x: Any) -> bool:
        return isinstance(x, KroneckerState)

    def one(x: Any) -> Any:
        if not engine(x):
            return over(place.levels[0], x)
        return over(place.levels[0], x)._replace(statistics=over(place.axes, x.statistics))

    return jax.tree.map(one, lengths, is_leaf=engine)


def _arrays(extra: dict[str, Any]) -> tuple[list[Any], Callable[[list[Any]], dict[str, Any]]]:
    """The arrays among extra arguments, which a program for shards must be given, and a way to put others there."""
    leaves, treedef = jax.tree.flatten(extra)
    which = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)]

    def rebuild(arrays: list[Any]) -> dict[str, Any]:
        filled = list(leaves)
        for i, x in zip(which, arrays, strict=True):
            filled[i] = x
        return treedef.unflatten(filled)

    return [leaves[i] for i in which], rebuild

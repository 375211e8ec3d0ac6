"""Average gradients over the devices of a mesh axis, with statistics, inside `jax.shard_map` or `jax.pmap`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from precond.arguments import described
from precond.replicas.gradients import Axes, GradientFunction
from precond.replicas.replicas import Squares, sum_over_axes
from precond.trees import Tree, vary, varying

__all__ = ["over_devices"]


@described()
def over_devices(f: GradientFunction, axis: str | Sequence[str], *, specs: Any = None) -> GradientFunction:
    """Average gradients over the devices of a mesh axis, each with its own part of the batch.

    Use it inside `jax.shard_map` and `jax.pmap`. There, with `check_vma` on (the default), `jax.grad` of parameters
    that all devices share is the sum over the devices. The gradient of one device never exists, nor does the spread,
    and a `pmean` of the gradient is that sum again. This function first makes the parameters each device's own, and
    averages once, so no `pmean` or `psum` belongs around it. If the types tell of a misuse, it raises an error.

    Shards of a model on other mesh axes (tensor parallel) count as parts of one gradient: with `check_vma` on their
    types tell so, else `specs` must. Parameters that are sharded over `axis` itself (FSDP) are gathered, and every
    device gets the mean of its own shard. The gradients take an all-to-all with as many bytes as their reduce-scatter
    would.

    Args:
      f: a function from `gradients` or another `over_` function.
      axis: the mesh axis, or axes, over which the batch is split.
      specs: how parameters are sharded: a tree of `PartitionSpec` such as `in_specs` of `jax.shard_map` takes (one may
        be given for a subtree). None if no parameter is sharded over `axis`.

    Returns:
      A function `f(params, batch)` to the value, the mean gradient (of this device's shards) and `Replicas`.

    Raises:
      ValueError: in a call outside of the axis; for parameters that vary over the axis although `specs` does not say
        so; for a batch that is the same on all devices; for a loss that is averaged already.

    Examples:
      >>> from precond.replicas import gradients
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> shared = PartitionSpec()
      >>> split = PartitionSpec("data")
      >>> f = over_devices(gradients(lambda w, x: jnp.mean(w * x)), "data")
      >>> step = jax.jit(
      ...     jax.shard_map(f, mesh=mesh, in_specs=(shared, split), out_specs=shared)
      ... )
      >>> x = jax.device_put(jnp.asarray([1.0, 3.0]), jax.NamedSharding(mesh, split))
      >>> value, mean, replicas = step(2.0, x)
      >>> mean.item(), replicas.count.item()
      (2.0, 1)
    """
    names = (axis,) if isinstance(axis, str) else tuple(axis)

    def spread(params: Tree, batch: Any, axes: Axes) -> tuple[Any, Tree, Tree]:
        if axes:
            raise ValueError("over_devices() around over_devices(): give one of them both mesh axes.")
        tracked, layout = _enter(names), _layout(params, specs, names)
        if tracked:
            _check(params, batch, layout, names)
        whole = jax.tree.map(lambda p, shard: _gather(p, shard, names, tracked), params, layout)
        value, local, inside = f.spread(whole, batch, frozenset(names if tracked else ()))
        rows = jax.tree.map(_exchange, local, layout)
        mean = jax.tree.map(lambda r, shard: _mean(r, shard, names), rows, layout)
        apart = jax.tree.map(jnp.subtract, rows, mean)
        deviation = jax.tree.map(lambda d, s: d + f.count() * s, inside, _sum_rows(f.squares, apart))
        deviation = _total(deviation, layout, names, tracked)
        return jax.tree.map(lambda v: jax.lax.pmean(v, names), value), mean, deviation

    def squares(tree: Tree) -> Tree:
        return _total(f.squares(tree), _layout(tree, specs, names), (), _enter(names))

    return GradientFunction(spread, squares, lambda: f.count() * jax.lax.axis_size(names))


class _Shard(NamedTuple):
    """Hold how a parameter is sharded: over the batch's axes, in one dimension, and over all axes."""

    axes: tuple[str, ...]
    dimension: int
    everywhere: tuple[str, ...]


def _layout(tree: Tree, specs: Any, names: tuple[str, ...]) -> Any:
    def one(spec: PartitionSpec | None) -> _Shard:
        entries = [(e,) if isinstance(e, str) else tuple(e or ()) for e in (spec or ())]
        mine = [(i, entry) for i, entry in enumerate(entries) if set(entry) & set(names)]
        if len(mine) > 1 or any(set(entry) - set(names) for _, entry in mine):
            raise ValueError(
                f"specs= has {spec}: over the axes of the batch, {names}, a parameter may be sharded in one dimension, "
                f"and that dimension over no other axis."
            )
        dimension, axes = mine[0] if mine else (0, ())
        return _Shard(axes, dimension, tuple(name for entry in entries for name in entry))

    def is_spec(x: Any) -> bool:
        return x is None or isinstance(x, PartitionSpec)

    return jax.tree.map(lambda spec, part: jax.tree.map(lambda _: one(spec), part), specs, tree, is_leaf=is_spec)


def _enter(names: tuple[str, ...]) -> bool:
    """Return whether types tell over which axes values vary; raise outside of the axes."""
    try:
        return all(varying(jax.lax.axis_index(name)) for name in names)
    except NameError as error:
        raise ValueError(
            f"over_devices() over {names} was called where there is no such axis: call it inside jax.shard_map or "
            f"jax.pmap, or use over_groups() under jax.jit."
        ) from error


def _check(params: Tree, batch: Any, layout: Any, names: tuple[str, ...]) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shards = jax.tree.leaves(layout, is_leaf=lambda x: isinstance(x, _Shard))
    for (path, p), shard in zip(leaves, shards, strict=True):
        if varying(p) & set(names) != set(shard.axes):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} varies over the mesh axes {sorted(varying(p))}, but specs= says "
                f"{shard.axes or 'none'} of {names}. Give the PartitionSpecs with which parameters enter the "
                f"jax.shard_map as specs=; a parameter that all devices share needs no pcast before."
            )
    arrays = jax.tree.leaves(batch)
    for name in names:
        if arrays and not any(name in varying(x) for x in arrays):
            raise ValueError(
                f"The batch is the same on all devices of the mesh axis {name!r}, so that their gradients are too: "
                f"let it enter the jax.shard_map with in_specs=PartitionSpec({name!r})."
            )


def _gather(p: ArrayLike, shard: _Shard, names: tuple[str, ...], tracked: bool) -> jax.Array:
    """Return the whole parameter, as each device's own."""
    whole = jnp.asarray(p)
    if shard.axes:
        whole = jax.lax.all_gather(whole, shard.axes, axis=shard.dimension, tiled=True)
    return vary(whole, frozenset(names)) if tracked else whole


def _exchange(g: jax.Array, shard: _Shard) -> jax.Array:
    """Send each device its part of a whole gradient: it gets one row from each device that computes some of it."""
    if not shard.axes:
        return g[None]
    pieces = jnp.stack(jnp.split(g, jax.lax.axis_size(shard.axes), axis=shard.dimension))
    return jax.lax.all_to_all(pieces, shard.axes, 0, 0, tiled=True)


def _mean(rows: jax.Array, shard: _Shard, names: tuple[str, ...]) -> jax.Array:
    rest = tuple(name for name in names if name not in shard.axes)
    mean = jnp.mean(rows, axis=0)
    return jax.lax.pmean(mean, rest) if rest else mean


def _sum_rows(squares: Squares, apart: Tree) -> Tree:
    """Sum squared norms over rows: a sharded parameter has one from every device, another its own alone."""
    count = max((x.shape[0] for x in jax.tree.leaves(apart)), default=1)

    def one(i: jax.Array) -> Tree:
        def row(x: jax.Array) -> jax.Array:
            return x[i] if x.shape[0] == count else jnp.where(i == 0, x[0], 0)

        return squares(jax.tree.map(row, apart))

    return jax.tree.map(jnp.sum, jax.lax.map(one, jnp.arange(count))) if count > 1 else one(jnp.asarray(0))


def _total(tree: Tree, layout: Any, names: tuple[str, ...], tracked: bool) -> Tree:
    """Sum scalars over the devices that each have a part of them."""

    def axes(x: jax.Array, shard: _Shard) -> frozenset[str]:
        return varying(x) if tracked else frozenset((*names, *shard.everywhere))

    return sum_over_axes(tree, jax.tree.map(axes, tree, layout))

"""Pack gradients into stacks, run a transformation of stacks on every shard, and unpack its updates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from precond.blocks import BlockInfo, Layout, finite_blocks, keep_finite, mask_blocks
from precond.collectives import Collectives
from precond.engine.row_shardings_of import row_shardings_of
from precond.engine.skip_nonfinite import without_marks
from precond.engine.stacking import Stacking
from precond.mesh import Placement, collectives_over, on_shards, reshard_in, warn_if_whole
from precond.routes import Route, route_of
from precond.scopes import named
from precond.trees import Tree

__all__ = ["run_stacks"]


class Given(NamedTuple):
    """Hold what a step is given, on all devices or on one.

    Attributes:
      leaves: the gradients; None for a parameter without a view.
      params: the parameters in the same form; None if the caller passed none.
      arrays: the arrays among the extra arguments of `update`.
      foreign: whether the state belongs to other parameters.
    """

    leaves: list[Any]
    params: list[Any] | None
    arrays: Any
    foreign: Any


class Program(NamedTuple):
    """Hold what a step does not change: the same on every device.

    Attributes:
      options: the arguments of `stacked`.
      layout: the layout of the parameters.
      route: how gradients come to the devices that own their blocks, and directions back.
      directions: the collectives over the devices among which the blocks of directions are divided.
      roots: the collectives over the devices among which the roots are divided.
      dtypes: the dtype in which directions are gathered, by stack.
      row_groups: the number of row groups on a device.
      rebuild: a function that puts arrays back among the extra arguments.
    """

    options: Stacking
    layout: Layout
    route: Route
    directions: Collectives
    roots: Collectives
    dtypes: dict[str, Any]
    row_groups: int
    rebuild: Callable[[list[Any]], dict[str, Any]]


def run_stacks(
    options: Stacking,
    layout: Layout,
    placement: Placement | None,
    leaves: list[Any],
    state: optax.OptState,
    params: optax.Params | None,
    extra: dict[str, Any],
    foreign: jax.Array,
) -> tuple[list[Any], Any, jax.Array]:
    """Run the inner transformation on every shard. If the state belongs to other parameters, updates are infinite.

    Args:
      options: the arguments of `stacked`.
      layout: the layout of the parameters.
      placement: where the stacks are sharded; None on one device.
      leaves: the gradients.
      state: the state of the inner transformation.
      params: the parameters, or None.
      extra: the extra arguments of `update`.
      foreign: whether the state belongs to other parameters.

    Returns:
      The leaves of the updates, the new state, and the number of blocks that were skipped.
    """
    arrays, rebuild = _arrays(extra)
    directions = collectives_over(None if placement is None else placement.over(placement.direction_axes))
    roots = collectives_over(None if placement is None else placement.over(placement.root_axes))
    route = route_of(layout, leaves, placement, directions, options.sharding)
    row_groups = options.sharding.multiple // (1 if placement is None else placement.count)
    dtypes = options.gather_dtypes(layout, leaves)
    program = Program(options, layout, route, directions, roots, dtypes, row_groups, rebuild)

    def entered(tree: Tree) -> list[Any]:
        pairs = zip(jax.tree.leaves(tree), route.specs, layout.viewed, strict=True)
        return [reshard_in(placement, jnp.asarray(x), spec) if v else None for x, spec, v in pairs]

    row_shardings = row_shardings_of(options.inner, layout.stacks, placement)
    warn_if_whole(placement, state, row_shardings)
    (out, skipped), new = on_shards(
        functools.partial(_step, program),
        placement,
        Given(entered(leaves), None if params is None else entered(params), arrays, foreign),
        state,
        row_shardings,
        in_specs=Given(route.specs, None if params is None else route.specs, PartitionSpec(), PartitionSpec()),
        out_specs=(route.specs, PartitionSpec()),
    )
    return out, new, skipped


def _step(program: Program, given: Given, state: Any) -> tuple[tuple[list[Any], jax.Array], Any]:
    """Do on one device what a step does to its rows of the stacks."""
    options, route = program.options, program.route
    params = None if given.params is None else route.pack(given.params)
    with named("stacks", _counted(program.layout)):
        stacks = route.pack(given.leaves)
        finite = {name: finite_blocks(x) for name, x in stacks.items()}
    info, skipped = _described(program, finite)
    stacks = {name: mask_blocks(finite[name], x) for name, x in stacks.items()}
    extra = program.rebuild(given.arrays) | {"blocks": info}
    moved, new = cast(Any, options.inner.update(stacks, state, params, **extra))
    # Updates become infinite, so that nobody trains on with the statistics of other parameters.
    other = jnp.where(given.foreign, jnp.inf, options.skipped)
    moved = {name: without_marks(x, options.skipped) for name, x in moved.items()}
    out = {n: keep_finite(finite[n] & ~given.foreign, x, jnp.full_like(x, other)) for n, x in moved.items()}
    out = out if options.rounds else {name: x.astype(program.dtypes[name]) for name, x in out.items()}
    return (route.unpack(out, given.leaves), skipped), new


def _described(program: Program, finite: dict[str, jax.Array]) -> tuple[BlockInfo, jax.Array]:
    """Describe this device's blocks, and count the blocks of all devices that are skipped."""
    layout, devices = program.layout, program.directions
    # The rows that pad a stack are zero, so they count as finite.
    skipped = devices.psum(functools.reduce(jnp.add, [jnp.sum(~x, dtype=jnp.int32) for x in finite.values()]))
    info = BlockInfo(
        finite=finite,
        any_finite=skipped < sum(layout.blocks.values()),
        index=devices.local({name: jnp.arange(x.shape[0]) for name, x in layout.stacks.items()}),
        origins=layout.origins(),
        batch_axes=1,
        row_groups=program.row_groups,
        collectives=devices,
        root_collectives=program.roots,
    )
    return info, skipped


def _counted(layout: Layout) -> str:
    """Count the blocks of each stack in words, for `precond.plan`."""
    return ", ".join(f"{layout.blocks[name]} of {x.shape[0]} {name}" for name, x in layout.stacks.items())


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

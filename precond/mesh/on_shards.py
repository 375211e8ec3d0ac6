"""Run a function of stacks on the shard that each device owns, inside every kind of user loop."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from precond.mesh.collectives_over import collectives_over
from precond.mesh.init_sharded import constrained
from precond.mesh.placement import Placement, RowSharding, RowShardings, Specs
from precond.trees import Tree

__all__ = ["on_shards"]


def _with_whole_state(
    body: Callable[..., Any], placement: Placement, given: Tree, state: Tree, row_shardings: RowShardings
) -> Any:
    """Run in the user's own `shard_map` or `pmap`, in which a device has its share of the state, or all of it."""

    def divided(x: jax.Array, row_sharding: RowSharding) -> tuple[str, ...]:
        """Return the axes over which an array must still be divided."""
        n, count = row_sharding.length, placement.over(row_sharding.axes).count
        if n and x.shape[0] not in (n, n // count):
            raise ValueError(
                f"The state has a stack of {x.shape[0]} blocks, where {n}, or {n // count} on each of "
                f"{count} devices, are needed. Was it made with another multiple or block_size?"
            )
        return row_sharding.axes if n and x.shape[0] == n else ()

    leaves, treedef = jax.tree.flatten(state)
    over = [divided(x, e) for x, e in zip(leaves, treedef.flatten_up_to(row_shardings), strict=True)]
    collectives = {axes: collectives_over(placement.over(axes)) for axes in over}
    mine = [collectives[axes].local(x) for x, axes in zip(leaves, over, strict=True)]
    out, new = body(given, treedef.unflatten(mine))
    made = treedef.flatten_up_to(new)
    for axes, found in collectives.items():
        which = [i for i, a in enumerate(over) if a == axes]
        for i, x in zip(which, found.all_gather([made[i] for i in which]), strict=True):
            made[i] = x
    return out, treedef.unflatten(made)


def on_shards(
    body: Callable[..., Any],
    placement: Placement | None,
    given: Any,
    state: Tree,
    row_shardings: RowShardings,
    *,
    in_specs: Specs = PartitionSpec(),
    out_specs: Specs = PartitionSpec(),
) -> Any:
    """Run a function of stacks on every device, each with its share of the state.

    Args:
      body: a function from the tree `given` and the device's share of the state to a tree of arrays and its share of
        the new state. It may use `collectives_over`.
      placement: the placement of the stacks. None runs `body` once, with the whole state.
      given: a tree of arrays.
      state: a tree of arrays. In the user's own `shard_map` each device has its share of it, or all of it. In the
        second case the new state is gathered in every step, as `pmap` needs it.
      row_shardings: a `RowSharding` for each array of the state.
      in_specs: how `given` is divided, as specifications for it or for parts of it. By default every device is given
        all of it. The user's own `shard_map` gives what it has.
      out_specs: how the first result of `body` is divided. By default it is the same on all devices.

    Raises:
      ValueError: if stacks of the state have another length, or the state has a number that differs between devices.

    Examples:
      >>> import jax.numpy as jnp
      >>> on_shards(lambda x, s: (x * 2, s + 1), None, jnp.ones(2), 0, None)
      (Array([2., 2.], dtype=float32), 1)
    """
    if placement is None:
        return body(given, state)
    if placement.kind == AxisType.Manual:
        return _with_whole_state(body, placement, given, state, row_shardings)
    states = jax.tree.map(lambda e: e.spec, row_shardings)
    if placement.kind == AxisType.Explicit:
        state = constrained(placement, state, row_shardings)
    run = jax.shard_map(
        body,
        # A mesh in the context must not be named again.
        mesh=placement.mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(in_specs, states),
        out_specs=(out_specs, states),
        axis_names=set(placement.axes),
    )
    try:
        return run(given, state)
    except ValueError as error:
        if "out_specs" not in str(error):
            raise
        raise ValueError(
            "inner= keeps a number for a whole stack, and each device would compute it from its own blocks: put the "
            "transformation into precond.per_block, outside of precond.blocked, or leave axis= out."
        ) from error

"""Make a state that is sharded from the start, and warn of one that is not."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from precond.mesh.placement import Placement, RowSharding, RowShardings
from precond.mesh.reshard import typed_sharding
from precond.trees import Tree

__all__ = ["constrained", "init_sharded", "warn_if_whole"]


def init_sharded(
    placement: Placement | None, make: Callable[[], Any], row_shardings: RowShardings, params: Tree
) -> Any:
    """Make a state that is sharded from the start, and never whole on one device.

    Args:
      placement: the placement of the stacks. None makes the state as it is, and so does the user's own `shard_map`.
      make: a function that makes a tree of arrays.
      row_shardings: a `RowSharding` for each array.
      params: a tree of arrays that are on the mesh.

    Examples:
      >>> init_sharded(None, lambda: jnp.ones(3), None, jnp.ones(1)).shape
      (3,)
    """
    if placement is None or placement.kind == AxisType.Manual:
        return make()
    if isinstance(placement.mesh, jax.sharding.Mesh):
        return jax.jit(make, out_shardings=jax.tree.map(placement.sharding, row_shardings))()

    def tied(arrays: list[jax.Array]) -> Any:
        # jit runs where its arguments are. Without an argument, the state would be made on one device. So a condition
        # that changes nothing makes the zeros depend on a parameter.
        some = jnp.any(arrays[0] != arrays[0]) if arrays else False
        return constrained(placement, jax.tree.map(lambda x: jnp.where(some, x, x), make()), row_shardings)

    return jax.jit(tied)([x for x in jax.tree.leaves(params) if isinstance(x, jax.Array)])


def constrained(placement: Placement, tree: Tree, row_shardings: RowShardings) -> Any:
    """Put the stacks of a tree where their shards belong.

    Args:
      placement: the placement of the stacks, on a mesh that is Auto or Explicit.
      tree: a tree of arrays.
      row_shardings: as in `init_sharded`.
    """
    constrain = jax.sharding.reshard if placement.kind == AxisType.Explicit else lax.with_sharding_constraint
    return jax.tree.map(lambda x, e: constrain(x, placement.sharding(e)) if e.length else x, tree, row_shardings)


def warn_if_whole(placement: Placement | None, state: Tree, row_shardings: RowShardings) -> None:
    """Warn of stacks that are whole on every device although they should be divided.

    The types of arrays show it if these axes of the mesh are explicit. Along automatic axes it cannot be seen while a
    function is traced.

    Args:
      placement: the placement of the stacks.
      state: a tree of arrays.
      row_shardings: as in `init_sharded`.

    Examples:
      >>> warn_if_whole(None, jnp.ones(3), None)
    """
    if placement is None or placement.count == 1 or placement.kind != AxisType.Explicit:
        return

    def whole(x: jax.Array, row_sharding: RowSharding) -> bool:
        sharding = typed_sharding(x)
        return bool(row_sharding.length and row_sharding.axes and sharding is not None and sharding.is_fully_replicated)

    found = jax.tree.leaves(jax.tree.map(whole, state, row_shardings))
    if any(found):
        warnings.warn(
            f"{sum(found)} arrays of the optimizer's state are whole on every device, although axis={placement.axes} "
            "divides them. Make the state with jax.jit(tx.init, out_shardings=precond.state_shardings(tx, params, "
            "mesh)), or with tx.init alone.",
            stacklevel=2,
        )

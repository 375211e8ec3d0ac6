"""Whole arrays for what reshapes, under meshes with explicit sharding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

__all__ = ["local_arrays", "with_local_arrays"]


def local_arrays(tree: Any) -> Any:
    """Gather what is sharded explicitly; leave all else, which need not be an array, as it is.

    Args:
      tree: of anything.

    Examples:
      >>> local_arrays([1.0, None])
      [1.0, None]
    """

    def replicated(x: Any) -> Any:
        mesh = jax.typeof(x).sharding.mesh if isinstance(x, jax.Array) else None
        if mesh is None or mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return x
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(replicated, tree)


def with_local_arrays(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Let an `update` that reshapes run under meshes with explicit sharding, where arrays carry their sharding.

    There it is an error to merge a sharded axis with another. So updates, parameters and other arrays are gathered
    before, and what comes out gets the sharding that went in. Under any other mesh, and without one, nothing is done.

    Args:
      update: an Optax update function.

    Returns:
      An update function of the same signature.
    """

    @functools.wraps(update)
    def wrapped(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(updates)
        mesh = jax.typeof(leaves[0]).sharding.mesh if leaves else None
        if mesh is None or mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return update(updates, state, params, **extra)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, updates)
        updates, params, extra = local_arrays((updates, params, extra))
        out, state = update(updates, state, params, **extra)
        return jax.tree.map(jax.sharding.reshard, out, shardings), state

    return wrapped

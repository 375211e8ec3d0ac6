"""Run a function of whole arrays inside every kind of user loop. Floor 1 of the library."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

__all__ = ["with_local_arrays"]


def with_local_arrays(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Let an `update` that reshapes run under meshes with explicit sharding, where arrays carry their sharding.

    There it is an error to merge a sharded axis with another. So updates and parameters are gathered before, and
    what comes out gets the sharding that went in. Under any other mesh, and without one, nothing is done.

    Args:
      update: an Optax update function.

    Returns:
      An update function of the same signature.
    """

    def replicated(x: jax.Array) -> jax.Array:
        return jax.sharding.reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec()))

    @functools.wraps(update)
    def wrapped(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(updates)
        mesh = jax.typeof(leaves[0]).sharding.mesh if leaves else None
        if mesh is None or mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return update(updates, state, params, **extra)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, updates)
        updates, params = jax.tree.map(replicated, (updates, params))
        out, state = update(updates, state, params, **extra)
        return jax.tree.map(jax.sharding.reshard, out, shardings), state

    return wrapped

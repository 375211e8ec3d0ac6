"""State that is sharded from the start."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from precond.mesh.local import typed_sharding
from precond.mesh.place import Place

__all__ = ["born", "constrained", "warn_if_whole"]


def born(place: Place | None, make: Callable[[], Any], extents: Any, params: Any) -> Any:
    """Make a state that is sharded from the start, and never whole on one device.

    Args:
      place: None makes it as it is, and so does the inside of the user's own `shard_map`.
      make: a tree of arrays.
      extents: an `Extent` for each.
      params: a tree of arrays that are on the mesh.

    Examples:
      >>> born(None, lambda: jnp.ones(3), None, jnp.ones(1)).shape
      (3,)
    """
    if place is None or place.kind == AxisType.Manual:
        return make()
    if isinstance(place.mesh, jax.sharding.Mesh):
        return jax.jit(make, out_shardings=jax.tree.map(place.sharding, extents))()

    def tied(arrays: list[jax.Array]) -> Any:
        # jit runs where its arguments are. A state made of nothing would have none, and stand on one device.
        some = jnp.any(arrays[0] != arrays[0]) if arrays else False
        return constrained(place, jax.tree.map(lambda x: jnp.where(some, x, x), make()), extents)

    return jax.jit(tied)([x for x in jax.tree.leaves(params) if isinstance(x, jax.Array)])


def constrained(place: Place, tree: Any, extents: Any) -> Any:
    """The stacks of a tree put where their shards belong.

    Args:
      place: of the shards, on a mesh that is Auto or Explicit.
      tree: of arrays.
      extents: as in `born`.
    """
    constrain = jax.sharding.reshard if place.kind == AxisType.Explicit else lax.with_sharding_constraint
    return jax.tree.map(lambda x, e: constrain(x, place.sharding(e)) if e.length else x, tree, extents)


def warn_if_whole(place: Place | None, state: Any, extents: Any) -> None:
    """Warn of stacks that are whole on every device although they are to be divided, where arrays tell.

    They tell on a mesh with explicit axes. On one with automatic axes nothing does while a function is traced.

    Args:
      place: of the stacks.
      state: a tree of arrays.
      extents: as in `born`.

    Examples:
      >>> warn_if_whole(None, jnp.ones(3), None)
    """
    if place is None or place.count == 1 or place.kind == AxisType.Manual:
        return

    def whole(x: Any, extent: Any) -> bool:
        sharding = typed_sharding(x)
        return bool(extent.length and extent.axes and sharding is not None and sharding.is_fully_replicated)

    found = jax.tree.leaves(jax.tree.map(whole, state, extents))
    if any(found):
        warnings.warn(
            f"{sum(found)} arrays of the optimizer's state are whole on every device, although axis={place.axes} "
            "divides them. Make the state with jax.jit(tx.init, out_shardings=precond.state_shardings(tx, params, "
            "mesh)), or with tx.init alone.",
            stacklevel=2,
        )

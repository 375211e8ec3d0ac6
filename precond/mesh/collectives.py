"""Collectives over the axes of a mesh: every array moves in its own shape, and XLA joins what can travel together."""

from typing import Any

import jax
from jax import lax

from precond.collectives import SINGLE, Collectives
from precond.mesh.place import Place

__all__ = ["collectives_over"]


def collectives_over(place: Place | None) -> Collectives:
    """Make the collectives of a function that runs inside a `shard_map` over the axes of the place.

    No array is reshaped or joined to another before it is sent. A TPU keeps arrays in tiles of 8 by 128, so that each
    of these would be a pass over memory; a compiler that can send several arrays at once does so by itself.

    Args:
      place: over whose axes stacks are divided; where it has none, everything belongs to every device.
    """
    if place is None or not place.axes:
        return SINGLE
    count, axes = place.count, place.axes

    def local(tree: Any) -> Any:
        index = lax.axis_index(axes)

        def one(x: jax.Array) -> jax.Array:
            n = x.shape[0] // count
            return lax.dynamic_slice_in_dim(x, index * n, n)

        return jax.tree.map(one, tree)

    def all_gather(tree: Any) -> Any:
        # "invarying": that the result is the same on all devices is in its type, for the user's shard_map.
        return jax.tree.map(lambda x: lax.all_gather(x, axes, tiled=True, to="invarying"), tree)

    def all_to_all(tree: Any) -> Any:
        return jax.tree.map(lambda x: lax.all_to_all(x, axes, 0, 0, tiled=True), tree)

    return Collectives(count, lambda: lax.axis_index(axes), local, all_gather, all_to_all, lambda x: lax.psum(x, axes))

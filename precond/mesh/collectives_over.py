"""Make collectives over the axes of a mesh, in which every array is sent in its own shape."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from precond.collectives import SINGLE, Collectives
from precond.mesh.placement import Placement
from precond.trees import Tree

__all__ = ["collectives_over"]


def collectives_over(placement: Placement | None) -> Collectives:
    """Make the collectives of a function that runs inside a `shard_map` over the axes of a placement.

    No array is reshaped or joined to another before it is sent. A TPU keeps arrays in tiles of 8 by 128, so that either
    would be a pass over memory. XLA sends several arrays at once by itself if it can.

    Args:
      placement: the placement over whose axes stacks are divided. Without axes, every device has everything.
    """
    if placement is None or not placement.axes:
        return SINGLE
    count, axes = placement.count, placement.axes

    def local(tree: Tree) -> Any:
        index = lax.axis_index(axes)

        def one(x: jax.Array) -> jax.Array:
            n = x.shape[0] // count
            return lax.dynamic_slice_in_dim(x, index * n, n)

        return jax.tree.map(one, tree)

    def all_gather(tree: Tree) -> Any:
        # "invarying" says in the type that the result is the same on all devices, which the user's shard_map needs.
        return jax.tree.map(lambda x: lax.all_gather(x, axes, tiled=True, to="invarying"), tree)

    def all_to_all(tree: Tree) -> Any:
        return jax.tree.map(lambda x: lax.all_to_all(x, axes, 0, 0, tiled=True), tree)

    def send(tree: Tree, pairs: Sequence[tuple[int, int]]) -> Any:
        return jax.tree.map(lambda x: lax.ppermute(x, axes, pairs), tree)

    def index() -> jax.Array:
        return lax.axis_index(axes)

    return Collectives(count, index, local, all_gather, all_to_all, lambda x: lax.psum(x, axes), send)

"""A device's share of stacks, and whole ones of all shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from precond.mesh.place import Place

__all__ = ["WHOLE", "Share", "Stacked", "share_of"]


class Stacked(NamedTuple):
    """An extra argument whose arrays have the length of their stack: `blocked` gives each device its share of them.

    Attributes:
      tree: of the arrays.
    """

    tree: Any


class Share(NamedTuple):
    """How a function on one device takes its share of stacks, and makes whole ones of all shares.

    Attributes:
      own: from a tree of whole stacks to this device's blocks.
      gather: back, with one collective for each dtype.
      total: of a number on each device, their sum.
    """

    own: Callable[[Any], Any]
    gather: Callable[[Any], Any]
    total: Callable[[jax.Array], jax.Array]


WHOLE = Share(lambda tree: tree, lambda tree: tree, lambda x: x)
"""Where there is one device, whose share is everything."""


def share_of(place: Place | None) -> Share:
    """The share of the device on which this runs, inside a `shard_map` over the axes of the place.

    Args:
      place: over whose axes stacks are divided; everything belongs to every device where it has none.
    """
    if place is None or not place.axes:
        return WHOLE

    def own(tree: Any) -> Any:
        index = lax.axis_index(place.axes)

        def one(x: jax.Array) -> jax.Array:
            n = x.shape[0] // place.count
            return lax.dynamic_slice_in_dim(x, index * n, n)

        return jax.tree.map(one, tree)

    def gather(tree: Any) -> Any:
        leaves, treedef = jax.tree.flatten(tree)
        out = list(leaves)
        for dtype in dict.fromkeys(x.dtype for x in leaves):
            which = [i for i, x in enumerate(leaves) if x.dtype == dtype]
            flat = jnp.concatenate([leaves[i].reshape(-1) for i in which])
            # "invarying": that the result is the same on all devices is in its type, for the user's shard_map.
            whole, start = lax.all_gather(flat, place.axes, to="invarying"), 0
            for i in which:
                x = leaves[i]
                out[i] = whole[:, start : start + x.size].reshape(place.count * x.shape[0], *x.shape[1:])
                start += x.size
        return treedef.unflatten(out)

    return Share(own, gather, lambda x: lax.psum(x, place.axes))

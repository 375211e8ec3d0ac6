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
      count: of shares.
      index: which of them is the device's.
      own: from a tree of whole stacks to this device's blocks.
      gather: back, with one collective for each dtype.
      exchange: from a tree of arrays `[count, ..]`, what this device has for each, to the same, what it has from each;
        likewise.
      total: of a number on each device, their sum.
    """

    count: int
    index: Callable[[], Any]
    own: Callable[[Any], Any]
    gather: Callable[[Any], Any]
    exchange: Callable[[Any], Any]
    total: Callable[[jax.Array], jax.Array]


def _itself(tree: Any) -> Any:
    return tree


WHOLE = Share(1, lambda: 0, _itself, _itself, _itself, _itself)
"""Where there is one device, whose share is everything."""


def _together(tree: Any, rows: int, move: Callable[[jax.Array], jax.Array]) -> Any:
    """Call `move` once for each dtype, on all arrays of a tree side by side.

    Args:
      tree: of arrays whose size `rows` divides.
      rows: of what `move` is given, a matrix; it returns another with as many columns.

    Returns:
      For each array its columns.
    """
    leaves, treedef = jax.tree.flatten(tree)
    out = list(leaves)
    for dtype in dict.fromkeys(x.dtype for x in leaves):
        which = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        moved, start = move(jnp.concatenate([leaves[i].reshape(rows, -1) for i in which], axis=1)), 0
        for i in which:
            columns = leaves[i].size // rows
            out[i] = lax.slice_in_dim(moved, start, start + columns, axis=1)
            start += columns
    return treedef.unflatten(out)


def share_of(place: Place | None) -> Share:
    """The share of the device on which this runs, inside a `shard_map` over the axes of the place.

    Args:
      place: over whose axes stacks are divided; everything belongs to every device where it has none.
    """
    if place is None or not place.axes:
        return WHOLE
    count, axes = place.count, place.axes

    def own(tree: Any) -> Any:
        index = lax.axis_index(axes)

        def one(x: jax.Array) -> jax.Array:
            n = x.shape[0] // count
            return lax.dynamic_slice_in_dim(x, index * n, n)

        return jax.tree.map(one, tree)

    def gather(tree: Any) -> Any:
        # "invarying": that the result is the same on all devices is in its type, for the user's shard_map.
        came = _together(tree, 1, lambda x: lax.all_gather(x[0], axes, to="invarying"))
        return jax.tree.map(lambda c, x: c.reshape(count * x.shape[0], *x.shape[1:]), came, tree)

    def exchange(tree: Any) -> Any:
        came = _together(tree, count, lambda x: lax.all_to_all(x, axes, 0, 0, tiled=True))
        return jax.tree.map(lambda c, x: c.reshape(x.shape), came, tree)

    return Share(count, lambda: lax.axis_index(axes), own, gather, exchange, lambda x: lax.psum(x, axes))

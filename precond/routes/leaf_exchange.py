"""Turn one leaf that is sharded over devices into slices of its blocks, and back."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks import Cut, Geometry

__all__ = ["LeafExchange", "exchange_of", "merge_slices", "split_slices"]


def split_slices(x: jax.Array, axis: int, count: int, cuts: Sequence[Cut] | None = None) -> jax.Array:
    """Split blocks into slices, `[.., d, ..] -> [count, .., d / count, ..]`.

    Args:
      x: an array.
      axis: the axis that is cut into blocks.
      count: the number of slices of each block.
      cuts: the cuts of the axis; None is one block.

    Examples:
      >>> split_slices(jnp.arange(6), 0, 2, [Cut(0, 1, 4), Cut(4, 1, 2)]).tolist()
      [[0, 1, 4], [2, 3, 5]]
    """
    pieces = []
    for start, blocks, size in cuts or [Cut(0, 1, x.shape[axis])]:
        piece = jax.lax.slice_in_dim(x, start, start + blocks * size, axis=axis)
        piece = piece.reshape(*x.shape[:axis], blocks, count, size // count, *x.shape[axis + 1 :])
        piece = jnp.moveaxis(piece, axis + 1, 0)
        pieces.append(piece.reshape(count, *x.shape[:axis], blocks * size // count, *x.shape[axis + 1 :]))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis + 1)


def merge_slices(x: jax.Array, axis: int, cuts: Sequence[Cut] | None = None) -> jax.Array:
    """Merge slices into blocks: the inverse of `split_slices`.

    Args:
      x: an array in the shape of the result of `split_slices`.
      axis: the axis, as given to `split_slices`.
      cuts: the cuts, as given to `split_slices`.

    Examples:
      >>> merge_slices(
      ...     jnp.asarray([[0, 1, 4], [2, 3, 5]]), 0, [Cut(0, 1, 4), Cut(4, 1, 2)]
      ... ).tolist()
      [0, 1, 2, 3, 4, 5]
    """
    count, *shape = x.shape
    pieces = []
    for start, blocks, size in cuts or [Cut(0, 1, count * shape[axis])]:
        piece = jax.lax.slice_in_dim(x, start // count, (start + blocks * size) // count, axis=axis + 1)
        piece = piece.reshape(count, *shape[:axis], blocks, size // count, *shape[axis + 1 :])
        piece = jnp.moveaxis(piece, 0, axis + 1)
        pieces.append(piece.reshape(*shape[:axis], blocks * size, *shape[axis + 1 :]))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis)


class LeafExchange(NamedTuple):
    """Describe how one sharded leaf becomes slices, and back. Nothing is exchanged if a shard already is the slice.

    Attributes:
      dim: the axis along which the leaf is sharded.
      read: the axes of the device's shard, as its view reads them.
      order: the order of these axes in the tensor.
      dims: the lengths of the axes in this order, with those of the sliced axis of the tensor merged.
      at: the place in `dims` at which the leaf is sharded; None if the shard is the slice.
      axis: the place in `dims` that is sliced.
      cuts: the cuts along the sliced axis.
      narrow: the shape of the slices, `[B, D1, .., Dk]`.
    """

    dim: int
    read: tuple[int, ...]
    order: tuple[int, ...]
    dims: tuple[int, ...]
    at: int | None
    axis: int
    cuts: tuple[Cut, ...]
    narrow: tuple[int, ...]

    @property
    def is_local(self) -> bool:
        """Whether there is nothing to exchange."""
        return self.at is None

    def send(self, leaf: jax.Array, count: int) -> jax.Array:
        """Return what a device sends of its shard of the leaf, `[count, ..]`, one entry for each device."""
        return split_slices(self._ordered(leaf).reshape(self.dims), self.axis, count, self.cuts)

    def receive(self, received: jax.Array) -> jax.Array:
        """Return the device's slice of all blocks of the leaf, `[B, D1, .., Dk]`.

        Args:
          received: the parts received from each device; if the exchange is local, the device's own shard.
        """
        received = self._ordered(received) if self.at is None else jnp.moveaxis(received, 0, self.at)
        return received.reshape(self.narrow)

    def send_back(self, slices: jax.Array, count: int) -> jax.Array:
        """Return what a device sends of its slices: the inverse of `receive`."""
        at, dims = self.at or 0, [d // count if i == self.axis else d for i, d in enumerate(self.dims)]
        return jnp.moveaxis(slices.reshape(*dims[:at], count, *dims[at:]), at, 0)

    def receive_back(self, received: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Return the device's shard of the leaf, in this shape: the inverse of `send`, or of a local `receive`."""
        leaf = received if self.is_local else merge_slices(received, self.axis, self.cuts)
        leaf = leaf.reshape([self.read[a] for a in self.order])
        return leaf.transpose(sorted(range(len(self.order)), key=self.order.__getitem__)).reshape(shape)

    def _ordered(self, leaf: jax.Array) -> jax.Array:
        return leaf.reshape(self.read).transpose(self.order)


def exchange_of(
    shape: tuple[int, ...], g: Geometry, sliced_axis: int, cuts: Sequence[Cut], count: int, dim: int
) -> LeafExchange | None:
    """Return the exchange of a leaf, or None if a shard of it cannot become slices.

    Args:
      shape: the shape of the leaf.
      g: how it is read.
      sliced_axis: the axis of its tensors that is sliced.
      cuts: the cuts along this axis.
      count: the number of devices.
      dim: the axis along which the leaf is sharded.

    Examples:
      >>> exchange_of(
      ...     (4, 8), Geometry((4, 8), (0, 1), (4, 8), ()), 1, [Cut(0, 1, 8)], 2, dim=1
      ... ).is_local
      True
    """
    before = math.prod(shape[:dim])
    fitting = [a for a, d in enumerate(g.shape) if math.prod(g.shape[:a]) == before and d % count == 0]
    first, last = g.spans()[sliced_axis]
    if shape[dim] % count or not fitting:
        return None
    place = g.order.index(fitting[0])
    own = place == first and sum(cut.count for cut in cuts) == 1  # a shard of one block's axis is a slice of it
    if first <= place < last and not own:
        return None
    read = [d // count if a == fitting[0] else d for a, d in enumerate(g.shape)]
    dims = [read[a] for a in g.order]
    dims = [*dims[:first], math.prod(dims[first:last]), *dims[last:]]
    at = None if own else place if place < first else place - (last - first) + 1
    tensor = [d // count if k == sliced_axis else d for k, d in enumerate(g.tensor)]
    batch = math.prod(g.shape) // math.prod(g.tensor)
    return LeafExchange(dim, tuple(read), g.order, tuple(dims), at, first, tuple(cuts), (batch, *tensor))

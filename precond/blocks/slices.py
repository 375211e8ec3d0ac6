"""Between leaves that are divided over devices and stacks that are: every device has one slice of every block.

A leaf is divided along one of its axes, a stack along its blocks, and in general a device owns nothing of the blocks
that its part of a leaf has a part of. But two exchanges, in each of which every device sends as much to every other,
lead from one to the other on any tree: from the part of a leaf to one slice of all its blocks (each device the same
slice, along an axis of the block), and from the slices of all blocks to some blocks whole. Slices are cut from leaves
and stacked as blocks are, by the same layout with narrower blocks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks.layout import Layout, Part, Sheet
from precond.blocks.view import Geometry

__all__ = ["Door", "Slices", "door_of", "fan", "slices_of", "unfan"]


def fan(x: jax.Array, axis: int, count: int, parts: Sequence[Part] | None = None) -> jax.Array:
    """Slices of blocks, `[.., d, ..] -> [count, .., d / count, ..]`.

    Args:
      x: any array.
      axis: that is cut into blocks.
      count: of slices of each block.
      parts: how it is cut; None is one block.

    Examples:
      >>> fan(jnp.arange(6), 0, 2, [Part(0, 1, 4), Part(4, 1, 2)]).tolist()
      [[0, 1, 4], [2, 3, 5]]
    """
    pieces = []
    for start, blocks, size in parts or [Part(0, 1, x.shape[axis])]:
        piece = jax.lax.slice_in_dim(x, start, start + blocks * size, axis=axis)
        piece = piece.reshape(*x.shape[:axis], blocks, count, size // count, *x.shape[axis + 1 :])
        piece = jnp.moveaxis(piece, axis + 1, 0)
        pieces.append(piece.reshape(count, *x.shape[:axis], blocks * size // count, *x.shape[axis + 1 :]))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis + 1)


def unfan(x: jax.Array, axis: int, parts: Sequence[Part] | None = None) -> jax.Array:
    """The inverse of `fan`.

    Args:
      x: of its shape.
      axis: as given to it.
      parts: likewise.

    Examples:
      >>> unfan(jnp.asarray([[0, 1, 4], [2, 3, 5]]), 0, [Part(0, 1, 4), Part(4, 1, 2)]).tolist()
      [0, 1, 2, 3, 4, 5]
    """
    count, *shape = x.shape
    pieces = []
    for start, blocks, size in parts or [Part(0, 1, count * shape[axis])]:
        piece = jax.lax.slice_in_dim(x, start // count, (start + blocks * size) // count, axis=axis + 1)
        piece = piece.reshape(count, *shape[:axis], blocks, size // count, *shape[axis + 1 :])
        piece = jnp.moveaxis(piece, 0, axis + 1)
        pieces.append(piece.reshape(*shape[:axis], blocks * size, *shape[axis + 1 :]))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis)


class Door(NamedTuple):
    """How one leaf comes in and goes out: by an exchange, unless a device's part is its slice already.

    Attributes:
      dim: the leaf's axis along which it is divided.
      read: the axes of the device's part, as its view reads them.
      order: in which they are then.
      dims: these axes, those of the tensor's axis that is sliced merged.
      at: which of them is divided; None where the part is the slice.
      axis: which is sliced.
      parts: the blocks along it.
      narrow: what comes of it, `[B, D1, .., Dk]`.
    """

    dim: int
    read: tuple[int, ...]
    order: tuple[int, ...]
    dims: tuple[int, ...]
    at: int | None
    axis: int
    parts: tuple[Part, ...]
    narrow: tuple[int, ...]

    def part(self, shape: Sequence[int], count: int) -> tuple[int, ...]:
        """The shape of the device's part of a leaf."""
        return tuple(d // count if i == self.dim else d for i, d in enumerate(shape))

    @property
    def open(self) -> bool:
        """Whether there is nothing to exchange."""
        return self.at is None

    def enter(self, leaf: jax.Array, count: int) -> jax.Array:
        """From a device's part of the leaf to what it sends to each, `[count, ..]`."""
        return fan(self._seen(leaf).reshape(self.dims), self.axis, count, self.parts)

    def settle(self, came: jax.Array) -> jax.Array:
        """From what came from each to the device's slice of all blocks of the leaf, `[B, D1, .., Dk]`.

        Through an open door comes the device's own part.
        """
        came = self._seen(came) if self.at is None else jnp.moveaxis(came, 0, self.at)
        return came.reshape(self.narrow)

    def leave(self, slices: jax.Array, count: int) -> jax.Array:
        """The inverse of `settle`."""
        at, dims = self.at or 0, [d // count if i == self.axis else d for i, d in enumerate(self.dims)]
        return jnp.moveaxis(slices.reshape(*dims[:at], count, *dims[at:]), at, 0)

    def exit(self, came: jax.Array, shape: Sequence[int]) -> jax.Array:
        """The inverse of `enter`, given the shape of the device's part; of an open door that of `settle`."""
        leaf = came if self.open else unfan(came, self.axis, self.parts)
        leaf = leaf.reshape([self.read[a] for a in self.order])
        return leaf.transpose(sorted(range(len(self.order)), key=self.order.__getitem__)).reshape(shape)

    def _seen(self, leaf: jax.Array) -> jax.Array:
        return leaf.reshape(self.read).transpose(self.order)


class Slices(NamedTuple):
    """What every device has in between.

    Attributes:
      layout: of slices; sheets whose members do not all come divided stand in it as they are.
      count: of slices of a block.
      along: by stack, the axis of its blocks that is sliced; blocks of a stack that is not in it have none that is
        divisible, and are whole.
      doors: by the index of the leaf, of those that come divided. The others come whole.
    """

    layout: Layout
    count: int
    along: dict[str, int]
    doors: dict[int, Door]

    def whole(self, sheet: Sheet) -> bool:
        """Whether the members of a sheet come whole."""
        return sheet.members[0][0] not in self.doors


def _spans(g: Geometry) -> list[tuple[int, int]]:
    """Which of the axes `g.order` each axis of the tensor is made of, from and to."""
    read, end = [g.shape[a] for a in g.order], len(g.order)
    spans = []
    for size in reversed(g.tensor):
        start = end
        while math.prod(read[start:end]) < size:
            start -= 1
        spans.insert(0, (start, end))
        end = start
    return spans


def _door(shape: tuple[int, ...], g: Geometry, along: int, parts: tuple[Part, ...], count: int, dim: int) -> Any:
    """The door of a leaf that is divided along `dim`; None where it cannot be."""
    before = math.prod(shape[:dim])
    fitting = [a for a, d in enumerate(g.shape) if math.prod(g.shape[:a]) == before and d % count == 0]
    first, last = _spans(g)[along]
    if shape[dim] % count or not fitting:
        return None
    place = g.order.index(fitting[0])
    own = place == first and sum(part.count for part in parts) == 1  # a part of one block's axis is a slice of it
    if first <= place < last and not own:
        return None
    read = [d // count if a == fitting[0] else d for a, d in enumerate(g.shape)]
    dims = [read[a] for a in g.order]
    dims = [*dims[:first], math.prod(dims[first:last]), *dims[last:]]
    at = None if own else place if place < first else place - (last - first) + 1
    tensor = [d // count if k == along else d for k, d in enumerate(g.tensor)]
    batch = math.prod(g.shape) // math.prod(g.tensor)
    return Door(dim, tuple(read), g.order, tuple(dims), at, first, parts, (batch, *tensor))


def door_of(shape: tuple[int, ...], g: Geometry, count: int, dims: Sequence[int]) -> Door | None:
    """The door of a leaf by itself, whose tensors are sliced along their last axis; None where there can be none.

    Args:
      shape: of the leaf.
      g: how it is read.
      count: of devices.
      dims: the axes along which it may come divided, the best first.

    Examples:
      >>> door_of((4, 8), Geometry((4, 8), (0, 1), (4, 8), ()), 2, [1]).open
      True
    """
    size = g.tensor[-1]
    if size % count:
        return None
    doors = (_door(shape, g, len(g.tensor) - 1, (Part(0, 1, size),), count, dim) for dim in dims)
    return next((door for door in doors if door is not None), None)


def _narrow(sheet: Sheet, along: int, count: int, doors: Mapping[int, Door]) -> Sheet:
    def less(k: int, part: Part) -> Part:
        return Part(part.start // count, part.count, part.size // count) if k == along else part

    def member(i: int, g: Geometry) -> tuple[int, Geometry]:
        shape = doors[i].narrow
        return i, Geometry(shape, tuple(range(len(shape))), shape[1:], g.passive)

    return Sheet(
        tuple(member(i, g) for i, g in sheet.members),
        tuple((name, tuple(less(k, part) for k, part in enumerate(region))) for name, region in sheet.regions),
        tuple(tuple(less(k, part) for part in parts) for k, parts in enumerate(sheet.parts)),
    )


def slices_of(layout: Layout, leaves: Sequence[Any], count: int, dims: Sequence[Sequence[int]]) -> Slices:
    """Work out how leaves come to their blocks' owners.

    Args:
      layout: of the leaves.
      leaves: with shapes.
      count: of devices, which divides the length of every stack.
      dims: for each leaf the axes along which it may come divided, the best first.

    Examples:
      >>> from precond.blocks import default_views, layout_of
      >>> leaves = [jnp.zeros((4, 8))]
      >>> found = slices_of(layout_of(leaves, default_views, 4), leaves, 2, [[0, 1]])
      >>> found.along, found.doors[0].dim, found.doors[0].narrow
      ({'4x4': 1}, 0, (1, 4, 4))
    """
    divisible = {name: [k for k, d in enumerate(x.shape[1:]) if d % count == 0] for name, x in layout.stacks.items()}
    along = {name: axes[-1] for name, axes in divisible.items() if axes}
    doors: dict[int, Door] = {}
    sheets = []
    for sheet in layout.sheets:
        axis, *others = {along.get(name) for name, _ in sheet.regions}
        if axis is None or others:
            sheets.append(sheet)
            continue
        found: dict[int, Any] = {}
        for i, g in sheet.members:
            tried = [_door(leaves[i].shape, g, axis, sheet.parts[axis], count, dim) for dim in dims[i]]
            found[i] = next((door for door in tried if door is not None), None)
        divided = None not in found.values()
        sheets.append(_narrow(sheet, axis, count, found) if divided else sheet)
        doors |= found if divided else {}
    return Slices(layout._replace(sheets=tuple(sheets)), count, along, doors)

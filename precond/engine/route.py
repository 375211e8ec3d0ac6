"""How gradients come to the devices that own their blocks, and directions back to the parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from precond.blocks import Layout, Slices, fan, slices_of, unfan
from precond.collectives import Collectives
from precond.mesh import Place, Sharded, typed_sharding

__all__ = ["Route", "best_axes", "come_divided", "route_of"]

Leaves = Sequence[Any]
Stacks = dict[str, jax.Array]


class Route(NamedTuple):
    """A way from leaves to the stacks of one device and back; both functions are called on every device.

    Attributes:
      specs: for each leaf, how it is divided over devices when it comes and when it goes.
      pack: from leaves to the device's blocks.
      unpack: from the device's blocks, and leaves as they came (their shapes and dtypes are enough), to leaves.
    """

    specs: list[PartitionSpec]
    pack: Callable[[Leaves], Stacks]
    unpack: Callable[[Stacks, Leaves], list[Any]]


def route_of(layout: Layout, leaves: Leaves, place: Place | None, collectives: Collectives, sharding: Sharded) -> Route:
    """Bring whole gradients to every device, and divided ones to the owners of their blocks.

    Args:
      layout: of the leaves.
      leaves: gradients.
      place: of the stacks.
      collectives: over the devices that have different blocks.
      sharding: what the user said.
    """
    viewed = [x for x, v in zip(leaves, layout.viewed, strict=True) if v]
    if place is None or not come_divided(place, sharding, viewed):
        return replicated_route(layout, leaves, collectives)
    return sharded_route(layout, leaves, collectives, place.levels[0], [best_axes(x) for x in leaves])


def come_divided(place: Place | None, how: Sharded, leaves: Leaves) -> bool:
    """Whether leaves come divided over devices: their types tell it, or the user does.

    Args:
      place: of the stacks.
      how: what the user said.
      leaves: of which it is asked.
    """
    if place is None or place.kind == AxisType.Manual or place.over(place.levels[0]).count == 1:
        return False
    return bool(how.gradients) or any(_divided_axes(x) for x in leaves)


def _divided_axes(leaf: Any) -> list[int]:
    """The axes along which an array is divided, where its type tells."""
    typed = typed_sharding(leaf)
    return [] if typed is None else [d for d, names in enumerate(typed.spec) if names is not None]


def best_axes(leaf: Any) -> list[int]:
    """The axes of an array, those along which it comes divided first.

    Args:
      leaf: an array, or its shape and dtype.
    """
    first = _divided_axes(leaf)
    return [*first, *(d for d in range(leaf.ndim) if d not in first)]


def replicated_route(layout: Layout, leaves: Leaves, collectives: Collectives) -> Route:
    """Every device has all leaves whole: it cuts out its own blocks, and all directions are gathered.

    Args:
      layout: of the leaves.
      leaves: as many as there are.
      collectives: over the devices that have different blocks.
    """

    def pack(leaves: Leaves) -> Stacks:
        return collectives.local(layout.pack(leaves))

    def unpack(stacks: Stacks, leaves: Leaves) -> list[Any]:
        return layout.unpack(collectives.all_gather(stacks), leaves)

    return Route([PartitionSpec()] * len(leaves), pack, unpack)


def sharded_route(
    layout: Layout, leaves: Leaves, collectives: Collectives, axes: tuple[str, ...], dims: Sequence[Sequence[int]]
) -> Route:
    """Every device has a shard of each leaf, and sends each block's rows to the block's owner.

    Directions return the same way. There are two exchanges each way (see `precond.blocks.Slices`), in each of which a
    device receives 1/n of the gradients. Leaves whose sizes do not divide come whole, and go so.

    Args:
      layout: of the leaves.
      leaves: with shapes and dtypes.
      collectives: over the devices that have different blocks.
      axes: of the mesh, over which leaves are divided.
      dims: for each leaf the axes along which it may come divided, the best first.
    """
    slices, n = slices_of(layout, leaves, collectives.count, dims), collectives.count
    along, doors = slices.along, slices.doors

    def pack(leaves: Leaves) -> Stacks:
        wires = layout.dtypes(leaves)
        came = collectives.all_to_all({i: door.enter(leaves[i], n) for i, door in doors.items() if not door.open})
        narrow = [doors[i].settle(came.get(i, x)) if i in doors else x for i, x in enumerate(leaves)]
        stacks = slices.layout.stacked(_slices_of_whole(slices, collectives, slices.layout.cut(narrow)))
        sent = {k: x.reshape(n, -1, *x.shape[1:]).astype(wires[k]) for k, x in stacks.items() if k in along}
        came = collectives.all_to_all(sent)
        mine = collectives.local({k: x for k, x in stacks.items() if k not in along})
        return mine | {k: unfan(x, along[k] + 1).astype(stacks[k].dtype) for k, x in came.items()}

    def unpack(stacks: Stacks, leaves: Leaves) -> list[Any]:
        sent = {k: fan(x, along[k] + 1, n) for k, x in stacks.items() if k in along}
        came = {k: x.reshape(-1, *x.shape[2:]) for k, x in collectives.all_to_all(sent).items()}
        came |= collectives.all_gather({k: x for k, x in stacks.items() if k not in along})
        cut = _whole_of_slices(slices, collectives, slices.layout.unstacked(came))
        like = [jax.ShapeDtypeStruct(doors[i].narrow, x.dtype) if i in doors else x for i, x in enumerate(leaves)]
        out = slices.layout.pasted(cut, like)
        came = collectives.all_to_all({i: door.leave(out[i], n) for i, door in doors.items() if not door.open})
        return [doors[i].exit(came.get(i, x), leaves[i].shape) if i in doors else x for i, x in enumerate(out)]

    specs = [PartitionSpec(*[None] * doors[i].dim, axes) if i in doors else PartitionSpec() for i in range(len(leaves))]
    return Route(specs, pack, unpack)


Cut = list[list[jax.Array]]


def _of_whole_sheets(slices: Slices, cut: Cut, change: Callable[[list[tuple[jax.Array, int]]], list[jax.Array]]) -> Cut:
    """Blocks of sheets whose members are there whole, changed where the rest of their stack is sliced along an axis."""
    places, given = [], []
    for s, sheet in enumerate(slices.layout.sheets):
        for r, (name, _) in enumerate(sheet.regions):
            if slices.whole(sheet) and name in slices.along:
                places.append((s, r))
                given.append((cut[s][r], slices.along[name] + 1))
    out = [list(blocks) for blocks in cut]
    for (s, r), x in zip(places, change(given), strict=True):
        out[s][r] = x
    return out


def _slices_of_whole(slices: Slices, collectives: Collectives, cut: Cut) -> Cut:
    """Of blocks that are there whole, the device's slice."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        index = collectives.index()
        return [lax.dynamic_index_in_dim(fan(x, axis, slices.count), index, keepdims=False) for x, axis in given]

    return _of_whole_sheets(slices, cut, change)


def _whole_of_slices(slices: Slices, collectives: Collectives, cut: Cut) -> Cut:
    """The inverse."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        came = collectives.all_gather([x for x, _ in given])
        return [
            unfan(x.reshape(slices.count, -1, *x.shape[1:]), axis) for x, (_, axis) in zip(came, given, strict=True)
        ]

    return _of_whole_sheets(slices, cut, change)

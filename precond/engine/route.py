"""How gradients come to the devices that own their blocks, and directions back to the parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from precond.blocks import Layout, Slices, merge_slices, slices_of, split_slices
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
    along, exchanges = slices.along, slices.exchanges

    def pack(leaves: Leaves) -> Stacks:
        wires = layout.dtypes(leaves)
        came = collectives.all_to_all({i: x.send(leaves[i], n) for i, x in exchanges.items() if not x.is_local})
        narrow = [exchanges[i].receive(came.get(i, x)) if i in exchanges else x for i, x in enumerate(leaves)]
        stacks = slices.layout.stacked(_slices_of_whole(slices, collectives, slices.layout.cut(narrow)))
        sent = {k: x.reshape(n, -1, *x.shape[1:]).astype(wires[k]) for k, x in stacks.items() if k in along}
        came = collectives.all_to_all(sent)
        mine = collectives.local({k: x for k, x in stacks.items() if k not in along})
        return mine | {k: merge_slices(x, along[k] + 1).astype(stacks[k].dtype) for k, x in came.items()}

    def unpack(stacks: Stacks, leaves: Leaves) -> list[Any]:
        sent = {k: split_slices(x, along[k] + 1, n) for k, x in stacks.items() if k in along}
        came = {k: x.reshape(-1, *x.shape[2:]) for k, x in collectives.all_to_all(sent).items()}
        came |= collectives.all_gather({k: x for k, x in stacks.items() if k not in along})
        cut = _whole_of_slices(slices, collectives, slices.layout.unstacked(came))
        like = [
            jax.ShapeDtypeStruct(exchanges[i].narrow, x.dtype) if i in exchanges else x for i, x in enumerate(leaves)
        ]
        out = slices.layout.pasted(cut, like)
        came = collectives.all_to_all({i: x.send_back(out[i], n) for i, x in exchanges.items() if not x.is_local})
        return [
            exchanges[i].receive_back(came.get(i, x), leaves[i].shape) if i in exchanges else x
            for i, x in enumerate(out)
        ]

    whole = PartitionSpec()
    divided = {i: PartitionSpec(*[None] * x.dim, axes) for i, x in exchanges.items()}
    return Route([divided.get(i, whole) for i in range(len(leaves))], pack, unpack)


CutGroups = list[list[jax.Array]]


def _of_whole_groups(
    slices: Slices, cut: CutGroups, change: Callable[[list[tuple[jax.Array, int]]], list[jax.Array]]
) -> CutGroups:
    """Change the blocks of groups whose members are there whole, while the rest of their stack is sliced."""
    places, given = [], []
    for s, group in enumerate(slices.layout.groups):
        for r, (name, _) in enumerate(group.regions):
            if slices.whole(group) and name in slices.along:
                places.append((s, r))
                given.append((cut[s][r], slices.along[name] + 1))
    out = [list(blocks) for blocks in cut]
    for (s, r), x in zip(places, change(given), strict=True):
        out[s][r] = x
    return out


def _slices_of_whole(slices: Slices, collectives: Collectives, cut: CutGroups) -> CutGroups:
    """Take the device's slice of blocks that are there whole."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        index = collectives.index()
        parts = [split_slices(x, axis, slices.count) for x, axis in given]
        return [lax.dynamic_index_in_dim(x, index, keepdims=False) for x in parts]

    return _of_whole_groups(slices, cut, change)


def _whole_of_slices(slices: Slices, collectives: Collectives, cut: CutGroups) -> CutGroups:
    """Gather such blocks whole: the inverse of `_slices_of_whole`."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        came = collectives.all_gather([x for x, _ in given])
        parts = [x.reshape(slices.count, -1, *x.shape[1:]) for x in came]
        return [merge_slices(x, axis) for x, (_, axis) in zip(parts, given, strict=True)]

    return _of_whole_groups(slices, cut, change)

"""How gradients come to the devices that own their blocks, and directions back to the parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from precond.blocks import Layout, Slices, fan, finite_blocks, slices_of, unfan
from precond.mesh import Place, Sharded, Share, typed_sharding
from precond.scopes import named

__all__ = ["Route", "best_axes", "come_divided", "divided_route", "whole_route"]

Leaves = Sequence[Any]
Stacks = dict[str, jax.Array]


class Route(NamedTuple):
    """A way from leaves to the stacks of one device and back; all but `specs` is called on every device.

    Attributes:
      specs: for each leaf, how it is divided over devices when it comes and when it goes.
      own: from leaves to the device's blocks.
      arrive: the same for gradients, with whether each of these blocks is finite, and whether each of all is, those
        that pad a stack left out.
      back: from the device's blocks, and leaves as they came (their shapes and dtypes are enough), to leaves.
    """

    specs: list[PartitionSpec]
    own: Callable[[Leaves], Stacks]
    arrive: Callable[[Leaves], tuple[Stacks, Stacks, Stacks]]
    back: Callable[[Stacks, Leaves], list[Any]]


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


def _counted(layout: Layout) -> str:
    return ", ".join(f"{layout.blocks[name]} of {x.shape[0]} {name}" for name, x in layout.stacks.items())


def _finite(layout: Layout, stacks: Stacks) -> Stacks:
    with named("stacks", _counted(layout)):
        return {name: finite_blocks(x) for name, x in stacks.items()}


def _blocks(layout: Layout, finite: Stacks) -> Stacks:
    return {name: x[: layout.blocks[name]] for name, x in finite.items()}


def whole_route(layout: Layout, leaves: Leaves, share: Share) -> Route:
    """Every device has all leaves whole: what it owns it cuts out, and all directions are gathered once.

    Args:
      layout: of the leaves.
      leaves: as many as there are.
      share: of the device.
    """

    def arrive(leaves: Leaves) -> tuple[Stacks, Stacks, Stacks]:
        stacks = layout.pack(leaves)
        finite = _finite(layout, stacks)
        return *share.own((stacks, finite)), _blocks(layout, finite)

    return Route(
        [PartitionSpec()] * len(leaves),
        own=lambda leaves: share.own(layout.pack(leaves)),
        arrive=arrive,
        back=lambda stacks, leaves: layout.unpack(share.gather(stacks), leaves),
    )


def divided_route(
    layout: Layout, leaves: Leaves, share: Share, axes: tuple[str, ...], dims: Sequence[Sequence[int]]
) -> Route:
    """Every device has a part of each leaf, and sends of it to the others what they own; likewise back.

    Two exchanges each way (see `precond.blocks.Slices`), in which a device receives 1/n of the gradients each. Leaves
    whose sizes do not divide come whole, and go so.

    Args:
      layout: of the leaves.
      leaves: with shapes and dtypes.
      share: of the device.
      axes: of the mesh, over which leaves are divided.
      dims: for each leaf the axes along which it may come divided, the best first.
    """
    slices, n = slices_of(layout, leaves, share.count, dims), share.count
    along, doors = slices.along, slices.doors

    def own(leaves: Leaves) -> Stacks:
        wires = layout.dtypes(leaves)
        came = share.exchange({i: door.enter(leaves[i], n) for i, door in doors.items() if not door.open})
        narrow = [doors[i].settle(came.get(i, x)) if i in doors else x for i, x in enumerate(leaves)]
        stacks = slices.layout.stacked(_slices_of_whole(slices, share, slices.layout.cut(narrow)))
        sent = {k: x.reshape(n, -1, *x.shape[1:]).astype(wires[k]) for k, x in stacks.items() if k in along}
        came = share.exchange(sent)
        mine = share.own({k: x for k, x in stacks.items() if k not in along})
        return mine | {k: unfan(x, along[k] + 1).astype(stacks[k].dtype) for k, x in came.items()}

    def arrive(leaves: Leaves) -> tuple[Stacks, Stacks, Stacks]:
        stacks = own(leaves)
        good = _finite(layout, stacks)
        return stacks, good, _blocks(layout, share.gather(good))

    def back(stacks: Stacks, leaves: Leaves) -> list[Any]:
        sent = {k: fan(x, along[k] + 1, n) for k, x in stacks.items() if k in along}
        came = {k: x.reshape(-1, *x.shape[2:]) for k, x in share.exchange(sent).items()}
        came |= share.gather({k: x for k, x in stacks.items() if k not in along})
        cut = _whole_of_slices(slices, share, slices.layout.unstacked(came))
        like = [jax.ShapeDtypeStruct(doors[i].narrow, x.dtype) if i in doors else x for i, x in enumerate(leaves)]
        out = slices.layout.pasted(cut, like)
        came = share.exchange({i: door.leave(out[i], n) for i, door in doors.items() if not door.open})
        return [doors[i].exit(came.get(i, x), leaves[i].shape) if i in doors else x for i, x in enumerate(out)]

    specs = [PartitionSpec(*[None] * doors[i].dim, axes) if i in doors else PartitionSpec() for i in range(len(leaves))]
    return Route(specs, own, arrive, back)


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


def _slices_of_whole(slices: Slices, share: Share, cut: Cut) -> Cut:
    """Of blocks that are there whole, the device's slice."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        index = share.index()
        return [lax.dynamic_index_in_dim(fan(x, axis, slices.count), index, keepdims=False) for x, axis in given]

    return _of_whole_sheets(slices, cut, change)


def _whole_of_slices(slices: Slices, share: Share, cut: Cut) -> Cut:
    """The inverse."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        came = share.gather([x for x, _ in given])
        return [
            unfan(x.reshape(slices.count, -1, *x.shape[1:]), axis) for x, (_, axis) in zip(came, given, strict=True)
        ]

    return _of_whole_sheets(slices, cut, change)

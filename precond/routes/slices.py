"""Cut sharded leaves into slices, one slice of every block for each device, on the way to sharded stacks.

A leaf is sharded along one of its axes, and a stack along its blocks. In general a device owns none of the blocks to
which its shard of a leaf belongs. But two exchanges lead from one to the other on any tree, and in each of them every
device sends equally much to every other. The first leads from the shard of a leaf to one slice of all its blocks, the
same slice of each, along an axis of the block. The second leads from the slices of all blocks to whole blocks, some on
each device. Slices are cut from leaves and stacked as blocks are, by the same layout with narrower blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from precond.blocks import Cut, Geometry, Layout, Member, Region, TensorGroup
from precond.routes.leaf_exchange import LeafExchange, exchange_of

__all__ = ["Slices", "slices_of"]


class Slices(NamedTuple):
    """Say how leaves are cut into slices, one slice of every block for each device.

    Attributes:
      layout: the layout of slices. Groups that have a replicated member are in it as they are.
      count: the number of slices of a block.
      sliced_axes: the axis of the blocks that is sliced, by stack. The blocks of a stack that is not named have no axis
        that divides, and stay whole.
      exchanges: the exchanges of the leaves that are sharded, by the place of the leaf. The others are replicated.
    """

    layout: Layout
    count: int
    sliced_axes: dict[str, int]
    exchanges: dict[int, LeafExchange]

    def whole(self, group: TensorGroup) -> bool:
        """Return whether the members of a group are replicated."""
        return group.members[0].leaf not in self.exchanges


def slices_of(layout: Layout, leaves: Sequence[Any], count: int, dims: Sequence[Sequence[int]]) -> Slices:
    """Compute how leaves are cut into slices, and how slices reach the owners of their blocks.

    Args:
      layout: the layout of the leaves.
      leaves: the leaves, or their shapes.
      count: the number of devices, which divides the length of every stack.
      dims: the axes along which each leaf can be sharded, the best first.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.blocks import default_views, layout_of
      >>> leaves = [jnp.zeros((4, 8))]
      >>> found = slices_of(layout_of(leaves, default_views, 4), leaves, 2, [[0, 1]])
      >>> found.sliced_axes, found.exchanges[0].dim, found.exchanges[0].narrow
      ({'4x4': 1}, 0, (1, 4, 4))
    """
    divisible = {name: [k for k, d in enumerate(x.shape[1:]) if d % count == 0] for name, x in layout.stacks.items()}
    sliced_axes = {name: axes[-1] for name, axes in divisible.items() if axes}
    exchanges: dict[int, LeafExchange] = {}
    groups = []
    for group in layout.groups:
        axis, *others = {sliced_axes.get(name) for name, _ in group.regions}
        found = None if axis is None or others else _exchanges(group, axis, leaves, count, dims)
        groups.append(group if found is None else _narrow(group, axis or 0, count, found))
        exchanges |= found or {}
    return Slices(layout._replace(groups=tuple(groups)), count, sliced_axes, exchanges)


def _exchanges(
    group: TensorGroup, axis: int, leaves: Sequence[Any], count: int, dims: Sequence[Sequence[int]]
) -> dict[int, LeafExchange] | None:
    """Return the exchanges of all leaves of a group, or None if one of them cannot be sharded."""
    found: dict[int, LeafExchange] = {}

    def add(leaf: int, g: Geometry, axis: int, cuts: Sequence[Cut]) -> bool:
        tried = (exchange_of(leaves[leaf].shape, g, axis, cuts, count, dim) for dim in dims[leaf])
        one = next((exchange for exchange in tried if exchange is not None), None)
        found.update({} if one is None else {leaf: one})
        return one is not None

    def both(member: Member) -> bool:
        divided = add(member.leaf, member.geometry, axis, group.cuts[axis])
        if member.row is None:
            return divided
        # A last row has one number for every column, so that it is sliced as columns are.
        return (
            divided and axis == 1 and add(member.row, member.row_geometry or member.geometry.of_row(), 0, group.cuts[1])
        )

    return found if all(map(both, group.members)) else None


def _narrow(group: TensorGroup, axis: int, count: int, exchanges: Mapping[int, LeafExchange]) -> TensorGroup:
    """Return a group of the slices of its members."""

    def less(cut: Cut) -> Cut:
        return Cut(cut.start // count, cut.count, cut.size // count)

    def region(whole: Region) -> Region:
        return tuple(less(cut) if k == axis else cut for k, cut in enumerate(whole))

    def member(m: Member) -> Member:
        shape = exchanges[m.leaf].narrow
        return m._replace(
            geometry=Geometry(shape, tuple(range(len(shape))), shape[1:], m.geometry.passive), row_geometry=None
        )

    return TensorGroup(
        tuple(member(m) for m in group.members),
        tuple((name, region(whole)) for name, whole in group.regions),
        tuple(tuple(map(less, cuts)) if k == axis else cuts for k, cuts in enumerate(group.cuts)),
    )

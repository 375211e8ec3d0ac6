"""Move sharded gradients: each device sends rows of blocks to the owners of the blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from precond.blocks import Layout
from precond.blocks.layout import CutGroups, Leaves, StacksByName
from precond.collectives import Collectives
from precond.routes.leaf_exchange import merge_slices, split_slices
from precond.routes.route import Route
from precond.routes.slices import Slices, slices_of

__all__ = ["sharded_route"]


def sharded_route(
    layout: Layout, leaves: Leaves, collectives: Collectives, axes: tuple[str, ...], dims: Sequence[Sequence[int]]
) -> Route:
    """Send the rows of every block from the shards of a leaf to the owner of the block, and directions back.

    There are two exchanges each way (see `precond.routes.slices`), and in each of them a device receives 1/n of the
    gradients. Leaves whose sizes do not divide are gathered.

    Args:
      layout: the layout of the leaves.
      leaves: the gradients; shapes and dtypes are enough.
      collectives: the collectives over the devices that have different blocks.
      axes: the mesh axes over which leaves are sharded.
      dims: the axes along which each leaf can be sharded, the best first.
    """
    slices, n = slices_of(layout, leaves, collectives.count, dims), collectives.count
    sliced_axes, exchanges = slices.sliced_axes, slices.exchanges

    def pack(leaves: Leaves) -> StacksByName:
        wires = layout.dtypes(leaves)
        received = collectives.all_to_all({i: x.send(leaves[i], n) for i, x in exchanges.items() if not x.is_local})
        narrow = [exchanges[i].receive(received.get(i, x)) if i in exchanges else x for i, x in enumerate(leaves)]
        stacks = slices.layout.stack_blocks(_slices_of_whole(slices, collectives, slices.layout.cut(narrow)))
        sent = {k: x.reshape(n, -1, *x.shape[1:]).astype(wires[k]) for k, x in stacks.items() if k in sliced_axes}
        received = collectives.all_to_all(sent)
        mine = collectives.local({k: x for k, x in stacks.items() if k not in sliced_axes})
        return mine | {k: merge_slices(x, sliced_axes[k] + 1).astype(stacks[k].dtype) for k, x in received.items()}

    def unpack(stacks: StacksByName, leaves: Leaves) -> list[Any]:
        sent = {k: split_slices(x, sliced_axes[k] + 1, n) for k, x in stacks.items() if k in sliced_axes}
        received = {k: x.reshape(-1, *x.shape[2:]) for k, x in collectives.all_to_all(sent).items()}
        received |= collectives.all_gather({k: x for k, x in stacks.items() if k not in sliced_axes})
        cut = _whole_of_slices(slices, collectives, slices.layout.unstack_blocks(received))
        like = [
            jax.ShapeDtypeStruct(exchanges[i].narrow, x.dtype) if i in exchanges else x for i, x in enumerate(leaves)
        ]
        out = slices.layout.paste(cut, like)
        received = collectives.all_to_all({i: x.send_back(out[i], n) for i, x in exchanges.items() if not x.is_local})
        return [
            exchanges[i].receive_back(received.get(i, x), leaves[i].shape) if i in exchanges else x
            for i, x in enumerate(out)
        ]

    whole = PartitionSpec()
    divided = {i: PartitionSpec(*[None] * x.dim, axes) for i, x in exchanges.items()}
    return Route([divided.get(i, whole) for i in range(len(leaves))], pack, unpack)


def _of_whole_groups(
    slices: Slices, cut: CutGroups, change: Callable[[list[tuple[jax.Array, int]]], list[jax.Array]]
) -> CutGroups:
    """Change the blocks of groups whose members are replicated, if the rest of their stack is sliced."""
    places, given = [], []
    for s, group in enumerate(slices.layout.groups):
        for r, (name, _) in enumerate(group.regions):
            if slices.whole(group) and name in slices.sliced_axes:
                places.append((s, r))
                given.append((cut[s][r], slices.sliced_axes[name] + 1))
    out = [list(blocks) for blocks in cut]
    for (s, r), x in zip(places, change(given), strict=True):
        out[s][r] = x
    return out


def _slices_of_whole(slices: Slices, collectives: Collectives, cut: CutGroups) -> CutGroups:
    """Take the device's slice of such blocks."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        index = collectives.index()
        parts = [split_slices(x, axis, slices.count) for x, axis in given]
        return [lax.dynamic_index_in_dim(x, index, keepdims=False) for x in parts]

    return _of_whole_groups(slices, cut, change)


def _whole_of_slices(slices: Slices, collectives: Collectives, cut: CutGroups) -> CutGroups:
    """Gather such blocks whole: the inverse of `_slices_of_whole`."""

    def change(given: list[tuple[jax.Array, int]]) -> list[jax.Array]:
        received = collectives.all_gather([x for x, _ in given])
        parts = [x.reshape(slices.count, -1, *x.shape[1:]) for x in received]
        return [merge_slices(x, axis) for x, (_, axis) in zip(parts, given, strict=True)]

    return _of_whole_groups(slices, cut, change)

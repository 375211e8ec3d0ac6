"""Move replicated gradients: each device cuts out its own blocks."""

from typing import Any

from jax.sharding import PartitionSpec

from precond.blocks import Layout
from precond.blocks.layout import Leaves, StacksByName
from precond.collectives import Collectives
from precond.routes.route import Route

__all__ = ["replicated_route"]


def replicated_route(layout: Layout, leaves: Leaves, collectives: Collectives) -> Route:
    """Cut out the device's own blocks of replicated leaves, and gather all directions.

    Args:
      layout: the layout of the leaves.
      leaves: the gradients.
      collectives: the collectives over the devices that have different blocks.
    """

    def pack(leaves: Leaves) -> StacksByName:
        return collectives.local(layout.pack(leaves))

    def unpack(stacks: StacksByName, leaves: Leaves) -> list[Any]:
        return layout.unpack(collectives.all_gather(stacks), leaves)

    return Route([PartitionSpec()] * len(leaves), pack, unpack)

"""Describe the way of gradients to the devices that own their blocks, and of directions back."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import PartitionSpec

from precond.blocks.layout import Leaves, StacksByName

__all__ = ["Route"]


class Route(NamedTuple):
    """Move leaves into the stacks of this device, and directions back; both functions are called on every device.

    Attributes:
      specs: the specification of each leaf on the mesh, before `pack` and after `unpack`.
      pack: a function from leaves to the device's blocks.
      unpack: a function from the device's blocks and the leaves (their shapes and dtypes are enough) to the directions.
    """

    specs: list[PartitionSpec]
    pack: Callable[[Leaves], StacksByName]
    unpack: Callable[[StacksByName, Leaves], list[Any]]

"""Choose a route by how gradients are sharded."""

from typing import Any

from jax.sharding import AxisType

from precond.blocks import Layout
from precond.blocks.layout import Leaves
from precond.collectives import Collectives
from precond.mesh import Placement, Sharded, typed_sharding
from precond.routes.replicated_route import replicated_route
from precond.routes.route import Route
from precond.routes.sharded_route import sharded_route

__all__ = ["route_of"]


def route_of(
    layout: Layout, leaves: Leaves, placement: Placement | None, collectives: Collectives, sharding: Sharded
) -> Route:
    """Choose the route: replicated gradients are cut locally, and sharded ones are sent to the owners of their blocks.

    Args:
      layout: the layout of the leaves.
      leaves: the gradients.
      placement: the placement of the stacks; None on one device.
      collectives: the collectives over the devices that have different blocks.
      sharding: the choice of the user.
    """
    viewed = [x for x, v in zip(leaves, layout.viewed, strict=True) if v]
    if placement is None or not _are_sharded(placement, sharding, viewed):
        return replicated_route(layout, leaves, collectives)
    return sharded_route(layout, leaves, collectives, placement.direction_axes, [_best_axes(x) for x in leaves])


def _are_sharded(placement: Placement, sharding: Sharded, leaves: Leaves) -> bool:
    """Return whether gradients are sharded, as their types or the user say."""
    if placement.kind == AxisType.Manual or placement.over(placement.direction_axes).count == 1:
        return False
    return bool(sharding.gradients) or any(_sharded_axes(x) for x in leaves)


def _sharded_axes(leaf: Any) -> list[int]:
    """Return the axes along which an array is sharded, if its type says so."""
    typed = typed_sharding(leaf)
    return [] if typed is None else [d for d, names in enumerate(typed.spec) if names is not None]


def _best_axes(leaf: Any) -> list[int]:
    """Return the axes of an array, those along which it is sharded first."""
    first = _sharded_axes(leaf)
    return [*first, *(d for d in range(leaf.ndim) if d not in first)]

"""Move gradients to the devices that own their blocks, and directions back. This is floor 2 of the library."""

from precond.routes.route import Route
from precond.routes.route_of import route_of

__all__ = ["Route", "route_of"]

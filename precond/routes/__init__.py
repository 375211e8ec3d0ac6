"""How gradients come to the devices that own their blocks, and directions back. Floor 2 of the library."""

from precond.routes.route import Route
from precond.routes.route_of import route_of

__all__ = ["Route", "route_of"]

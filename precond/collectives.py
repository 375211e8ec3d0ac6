"""Define what a function on one device does together with the other devices. This is floor 0 of the library."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

__all__ = ["SINGLE", "Collectives"]


class Collectives(NamedTuple):
    """Move stacks between the devices that share them; `precond.mesh.collectives_over` makes one for a mesh.

    Attributes:
      count: the number of devices.
      index: return the number of this device, from 0.
      local: cut this device's blocks out of a tree of whole stacks.
      all_gather: make whole stacks of every device's blocks, the inverse of `local`.
      all_to_all: send entry i of every array `[count, ..]` of a tree to device i. Entry j of the result is from device
        j.
      psum: add up a number over the devices.
      send: a function of a tree and pairs (i, j) that sends the tree from device i to device j. A device that gets
        nothing has zeros.
    """

    count: int
    index: Callable[[], Any]
    local: Callable[[Any], Any]
    all_gather: Callable[[Any], Any]
    all_to_all: Callable[[Any], Any]
    psum: Callable[[jax.Array], jax.Array]
    send: Callable[[Any, Sequence[tuple[int, int]]], Any]


def _same(tree: Any) -> Any:
    return tree


SINGLE = Collectives(1, lambda: 0, _same, _same, _same, _same, lambda tree, pairs: tree)
"""One device, which has everything."""

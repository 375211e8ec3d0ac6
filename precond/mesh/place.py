"""Where the stacks of a call are sharded: found in the context, the argument, or the arrays."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.mesh.sharded import ByCost, Sharded

__all__ = ["Extent", "Place", "find_place"]


@dataclasses.dataclass(frozen=True)
class Extent:
    """Of an array of the state, the leading axis.

    Attributes:
      length: where it is that of a stack; 0 elsewhere.
      axes: over which it is divided.
    """

    length: int = 0
    axes: tuple[str, ...] = ()

    @property
    def spec(self) -> PartitionSpec:
        """Its specification on the mesh."""
        return PartitionSpec(self.axes) if self.length and self.axes else PartitionSpec()


class Place(NamedTuple):
    """Where stacks are sharded.

    Attributes:
      axes: names of mesh axes; the leading axis of every stack is divided over all of them.
      mesh: that has them.
      kind: of these axes: Auto, Explicit, or Manual inside the user's own `shard_map` or `pmap`.
      count: the number of shards.
      roots: the last of the axes, over which roots are gathered.
    """

    axes: tuple[str, ...]
    mesh: Any
    kind: AxisType
    count: int
    roots: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axes over which directions are gathered, and those over which roots are."""
        return tuple(a for a in self.axes if a not in self.roots), self.roots

    def over(self, axes: tuple[str, ...]) -> "Place":
        """The same mesh, divided over these axes alone."""
        return self._replace(axes=axes, count=math.prod(self.mesh.shape[a] for a in axes), roots=())

    def sharding(self, extent: Extent) -> NamedSharding:
        """That of an array of the state, seen as a whole."""
        return NamedSharding(self.mesh, extent.spec)


def _meshes(mesh: Any, tree: Any) -> list[Any]:
    """From the context, the argument, and the arrays: Auto meshes are seen in the types of what jit is given, too."""
    found = [jax.sharding.get_abstract_mesh(), mesh]
    for leaf in jax.tree.leaves(tree):
        # Outside jit an array knows its devices, which a function that is run at once needs.
        typed = jax.typeof(leaf) if isinstance(leaf, Tracer) else leaf
        found.append(getattr(getattr(typed, "sharding", None), "mesh", None))
    return [m for m in found if m is not None and not m.empty]


def find_place(how: Sharded, mesh: Any, tree: Any) -> Place | None:
    """Where the stacks of this call are sharded.

    Args:
      how: which axes.
      mesh: the one to take where there is none in the context (`jax.set_mesh`, `shard_map`, `pmap`); None takes that
        of the arrays.
      tree: of arrays, or of anything with shape and dtype.

    Returns:
      The place; None where there is nothing to shard over: no axis, or no mesh.

    Raises:
      ValueError: where there are meshes, but none has the axis; where its axes are of different types; and where their
        size does not divide `multiple`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.mesh.sharded import sharded
      >>> find_place(sharded("data"), None, jnp.ones(3)) is None
      True
      >>> find_place(sharded("data"), jax.make_mesh((1,), ("data",)), jnp.ones(3)).count
      1
    """
    axes = how.axis
    if axes is None:
        return None
    meshes = _meshes(mesh, tree)
    fitting = [m for m in meshes if set(axes) <= set(m.axis_names)]
    if not fitting:
        if meshes:
            names = " or ".join(sorted({str(tuple(m.axis_names)) for m in meshes}))
            raise ValueError(f"axis={axes} is no axis of the mesh, which has {names}. Name one of these.")
        return None
    found = fitting[0]
    kinds = {dict(zip(found.axis_names, found.axis_types, strict=True))[a] for a in axes}
    if len(kinds) > 1:
        raise ValueError(f"axis={axes}: these axes of the mesh have different types ({kinds}). Name axes of one type.")
    count = math.prod(found.shape[a] for a in axes)
    if how.multiple % count:
        raise ValueError(
            f"axis={axes} has {count} devices, which do not divide stacks of a multiple of {how.multiple} blocks: pass "
            f"axis=precond.sharded({axes}, multiple=...), a multiple of all numbers of devices the run will ever have."
        )
    roots = () if isinstance(how.roots, ByCost) else how.roots
    return Place(axes, found, kinds.pop(), count, roots)

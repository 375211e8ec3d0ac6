"""Find where stacks are sharded, from the context, the argument or the arrays."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from precond.boxes import in_box
from precond.mesh.sharded import ByCost, Sharded
from precond.trees import Tree

__all__ = [
    "Placement",
    "RowSharding",
    "RowShardings",
    "Specs",
    "find_placement",
    "in_boxes",
    "refuse_other_mesh",
    "without_mesh",
]


@dataclasses.dataclass(frozen=True)
class RowSharding:
    """Say how the rows of one array of the state are divided over devices.

    Attributes:
      length: the number of rows of a stack; 0 for an array that is not a stack.
      axes: the mesh axes over which the rows are divided.
    """

    length: int = 0
    axes: tuple[str, ...] = ()

    @property
    def spec(self) -> PartitionSpec:
        """The specification of the array on the mesh."""
        return PartitionSpec(self.axes) if self.length and self.axes else PartitionSpec()


RowShardings = Any
"""A tree with a `RowSharding` for each array of a state."""

Specs = Any
"""A tree of `PartitionSpec`, or one for all arrays of a tree or of a part of it."""


class Placement(NamedTuple):
    """Say over which axes of a mesh stacks are divided.

    Attributes:
      axes: the names of the mesh axes over all of which the leading axis of every stack is divided.
      mesh: the mesh that has these axes.
      kind: the type of these axes: Auto, Explicit, or Manual inside the user's own `shard_map` or `pmap`.
      count: the number of shards.
      root_axes: the last of the axes, over which roots are gathered.
    """

    axes: tuple[str, ...]
    mesh: Mesh | AbstractMesh
    kind: AxisType
    count: int
    root_axes: tuple[str, ...] = ()

    @property
    def direction_axes(self) -> tuple[str, ...]:
        """The axes over which directions are gathered."""
        return tuple(a for a in self.axes if a not in self.root_axes)

    def over(self, axes: tuple[str, ...]) -> "Placement":
        """Return a placement on the same mesh that divides over these axes alone."""
        return self._replace(axes=axes, count=math.prod(self.mesh.shape[a] for a in axes), root_axes=())

    def sharding(self, row_sharding: RowSharding) -> NamedSharding:
        """Return the sharding of an array of the state, seen as a whole."""
        return NamedSharding(self.mesh, row_sharding.spec)


def _meshes(mesh: Mesh | AbstractMesh | None, tree: Tree) -> list[Any]:
    """Return the meshes of the context, the argument, and the arrays; types of traced arrays show Auto meshes, too."""
    found = [jax.sharding.get_abstract_mesh(), mesh]
    for leaf in jax.tree.leaves(tree):
        # Outside of jit an array has devices, which a function that runs at once needs.
        typed = jax.typeof(leaf) if isinstance(leaf, Tracer) else leaf
        found.append(getattr(getattr(typed, "sharding", None), "mesh", None))
    return [m for m in found if m is not None and not m.empty]


def find_placement(sharding: Sharded, mesh: Mesh | AbstractMesh | None, tree: Tree) -> Placement | None:
    """Find where the stacks of this call are sharded.

    Args:
      sharding: the choice of axes.
      mesh: the mesh to take if the context has none (`jax.set_mesh`, `shard_map`, `pmap`); None takes that of the
        arrays.
      tree: a tree of arrays, or of anything with shape and dtype.

    Returns:
      The placement; None if there is nothing to shard over: no axis, or no mesh.

    Raises:
      ValueError: if there are meshes, but none has the axis; if the axes are of different types; and if the number of
        their devices does not divide `multiple`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from precond.mesh.sharded import sharded
      >>> find_placement(sharded("data"), None, jnp.ones(3)) is None
      True
      >>> find_placement(sharded("data"), jax.make_mesh((1,), ("data",)), jnp.ones(3)).count
      1
    """
    axes = sharding.axis
    if axes is None:
        return None
    meshes = _meshes(mesh, tree)
    fitting = [m for m in meshes if set(axes) <= set(m.axis_names)]
    if not fitting:
        if meshes:
            names = " or ".join(sorted({str(tuple(m.axis_names)) for m in meshes}))
            raise ValueError(f"axis={axes} is not an axis of the mesh, which has {names}. Name one of these.")
        return None
    found = fitting[0]
    if unknown := [a for a in sharding.gradients if a not in found.axis_names]:
        raise ValueError(
            f"gradients={sharding.gradients}: '{unknown[0]}' is not an axis of the mesh, which has "
            f"{tuple(found.axis_names)}. Name one of these."
        )
    kinds = {dict(zip(found.axis_names, found.axis_types, strict=True))[a] for a in axes}
    if len(kinds) > 1:
        raise ValueError(f"axis={axes}: these axes of the mesh have different types ({kinds}). Name axes of one type.")
    count = math.prod(found.shape[a] for a in axes)
    if sharding.multiple % count:
        raise ValueError(
            f"axis={axes} has {count} devices, which do not divide stacks of a multiple of {sharding.multiple} blocks: "
            f"pass axis=precond.sharded({axes}, multiple=...), a multiple of all numbers of devices that the run will "
            f"ever have."
        )
    roots = () if isinstance(sharding.roots, ByCost) else sharding.roots
    return Placement(axes, found, kinds.pop(), count, roots)


def refuse_other_mesh(sharding: Sharded, state: Tree) -> None:
    """Raise for a state on a mesh of explicit axes beside gradients on no mesh.

    Args:
      sharding: the choice of axes.
      state: the state.

    Raises:
      ValueError: if the state is there.

    Examples:
      >>> from precond.mesh.sharded import sharded
      >>> refuse_other_mesh(sharded("data"), jax.numpy.ones(3))
    """
    for mesh in (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(state)):
        if not mesh.empty and AxisType.Explicit in mesh.axis_types and set(sharding.axis or ()) & set(mesh.axis_names):
            raise ValueError(
                f"axis={sharding.axis}: state= is on a mesh with explicit axes, but the gradients are not. Put them on "
                f"it (jax.device_put with a NamedSharding), call update within jax.set_mesh(mesh), or pass mesh=."
            )


def without_mesh(sharding: Sharded) -> Placement | None:
    """Return how stacks will be divided once there is a mesh, or None if they will not or if cost decides.

    Args:
      sharding: the choice of axes.

    Examples:
      >>> from precond.mesh.sharded import sharded
      >>> without_mesh(sharded("data")).direction_axes
      ('data',)
    """
    if sharding.axis is None or isinstance(sharding.roots, ByCost):
        return None
    return Placement(sharding.axis, AbstractMesh((), ()), AxisType.Auto, 1, sharding.roots)


def in_boxes(tree: Tree, row_shardings: RowShardings, box: Any, placement: Placement | None = None) -> Any:
    """Put the stacks of a state into boxes with the names of the axes over which they are divided.

    A training loop that finds its shardings from names of axes, before there is a mesh, then also finds those of
    stacks.

    Args:
      tree: a tree of arrays.
      row_shardings: a `RowSharding` for each array, or None to put nothing into boxes.
      box: one of the parameters' boxes.
      placement: where the stacks are sharded; None if nowhere.

    Examples:
      >>> from flax import linen as nn
      >>> stack = jax.ShapeDtypeStruct((8, 3, 3), "float32")
      >>> in_boxes(stack, RowSharding(8, ("data",)), nn.Partitioned(None, names=())).names
      ('data', None, None)
    """
    if row_shardings is None:
        return tree
    sizes = {} if placement is None else dict(placement.mesh.shape)

    def one(x: Any, row: RowSharding) -> Any:
        return in_box(box, x, row.axes, sizes) if row.length and row.axes else x

    return jax.tree.map(one, tree, row_shardings)

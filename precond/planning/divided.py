"""Shard shapes of parameters as fully sharded training (FSDP) lays parameters out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

__all__ = ["divided"]


def divided(params: Any, mesh: Mapping[str, int], axes: Sequence[str]) -> Any:
    """Divide every parameter over axes of a mesh, along its longest side that they divide.

    A parameter without such a side stays whole on every device.

    Args:
      params: a tree of anything with shape and dtype.
      mesh: sizes of mesh axes by name.
      axes: the axes over which parameters are divided.

    Returns:
      A tree of `jax.ShapeDtypeStruct` with shardings, for `precond.plan`.

    Raises:
      ValueError: for an axis that the mesh does not have.

    Examples:
      >>> kernel = jax.ShapeDtypeStruct((64, 256), "float32")
      >>> divided({"kernel": kernel}, {"data": 8}, ["data"])["kernel"].sharding.spec[1]
      'data'
    """
    unknown = [axis for axis in axes if axis not in mesh]
    if unknown:
        raise ValueError(f"Axis '{unknown[0]}' is not an axis of the mesh, which has {', '.join(mesh)}.")
    devices = AbstractMesh(tuple(mesh.values()), tuple(mesh), axis_types=(AxisType.Explicit,) * len(mesh))
    count = math.prod(mesh[axis] for axis in axes)

    def one(x: Any) -> jax.ShapeDtypeStruct:
        fitting = [d for d, n in enumerate(x.shape) if n and n % count == 0]
        along = max(fitting, key=lambda d: x.shape[d], default=None)
        spec = PartitionSpec() if along is None else PartitionSpec(*[None] * along, tuple(axes))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(devices, spec))

    return jax.tree.map(one, params)

"""Whole arrays for what reshapes, under meshes with explicit sharding."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.mesh.place import Place

__all__ = ["as_typed", "entering", "local_arrays", "typed_sharding"]


def typed_sharding(x: Any) -> NamedSharding | None:
    """How an array is sharded, where its type tells: on a mesh with explicit axes, and nowhere else.

    Args:
      x: anything.

    Examples:
      >>> typed_sharding(1.0) is None
      True
    """
    sharding = jax.typeof(x).sharding if isinstance(x, jax.Array) else None
    if sharding is None or sharding.mesh.empty or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return sharding


def _by_way_of(shape: tuple[int, ...], sharding: NamedSharding, other: NamedSharding) -> NamedSharding:
    """Between two shardings of an array: that of the first, divided further by what only the second has.

    To go there a device drops what it has, and from there on axes move one by one. Without it XLA gathers the array
    where an axis is exchanged for another.
    """

    def named(names: Any) -> tuple[str, ...]:
        return () if names is None else (names,) if isinstance(names, str) else tuple(names)

    here, there = ([named(x) for x in (*s.spec, *[None] * (len(shape) - len(s.spec)))] for s in (sharding, other))
    used = {name for names in here for name in names}
    both = [(*h, *(name for name in t if name not in used)) for h, t in zip(here, there, strict=True)]
    shards = [math.prod(sharding.mesh.shape[name] for name in names) for names in both]
    if any(d % n for d, n in zip(shape, shards, strict=True)):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*both))


def as_typed(x: Any, like: Any) -> Any:
    """An array, sharded as another, where the type of that tells how it is.

    Args:
      x: the array.
      like: the other.
    """
    wanted, typed = typed_sharding(like), typed_sharding(x)
    if wanted is None:
        return x
    if typed is not None:
        x = jax.sharding.reshard(x, _by_way_of(x.shape, wanted, typed))
    return jax.sharding.reshard(x, wanted)


def entering(place: Place | None, x: Any, spec: PartitionSpec) -> Any:
    """An array as a function on every device is to be given it; done by JAX itself where types tell nothing.

    Args:
      place: of the devices.
      x: the array.
      spec: how it is to be divided.
    """
    if place is None or place.kind != AxisType.Explicit or spec == PartitionSpec():
        return local_arrays(x)
    wanted, typed = NamedSharding(place.mesh, spec), typed_sharding(x)
    if typed is not None:
        x = jax.sharding.reshard(x, _by_way_of(x.shape, typed, wanted))
    return jax.sharding.reshard(x, wanted)


def local_arrays(tree: Any) -> Any:
    """Gather what is sharded explicitly; leave all else, which need not be an array, as it is.

    Args:
      tree: of anything.

    Examples:
      >>> local_arrays([1.0, None])
      [1.0, None]
    """

    def replicated(x: Any) -> Any:
        typed = typed_sharding(x)
        return x if typed is None else jax.sharding.reshard(x, NamedSharding(typed.mesh, PartitionSpec()))

    return jax.tree.map(replicated, tree)

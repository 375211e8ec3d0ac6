"""Move arrays from one sharding to another, on meshes with explicit axes."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.mesh.placement import Placement
from precond.trees import Tree

__all__ = ["match_sharding", "replicate", "reshard_in", "typed_sharding"]


def typed_sharding(x: Any) -> NamedSharding | None:
    """Return how an array is sharded if its type says so, as it does on a mesh with explicit axes; else None.

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
    """Return a sharding between two others: the first, divided further over the axes that only the second has.

    To reach it, a device drops a part of its shard; after it, axes move one by one. Without this step XLA gathers the
    whole array if one axis is exchanged for another.
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


def match_sharding(x: Any, like: Any) -> Any:
    """Give an array the sharding that the type of another one shows, if it shows one.

    Args:
      x: the array.
      like: the other array.
    """
    wanted, typed = typed_sharding(like), typed_sharding(x)
    if wanted is None:
        return x
    if typed is not None:
        x = jax.sharding.reshard(x, _by_way_of(x.shape, wanted, typed))
    return jax.sharding.reshard(x, wanted)


def reshard_in(placement: Placement | None, x: Any, spec: PartitionSpec) -> Any:
    """Shard an array as a function on every device needs it; JAX does it by itself if types show no sharding.

    Args:
      placement: the placement of the stacks.
      x: the array.
      spec: how the function needs it divided.
    """
    if placement is None or placement.kind != AxisType.Explicit or spec == PartitionSpec():
        return replicate(x)
    wanted, typed = NamedSharding(placement.mesh, spec), typed_sharding(x)
    if typed is not None:
        x = jax.sharding.reshard(x, _by_way_of(x.shape, typed, wanted))
    return jax.sharding.reshard(x, wanted)


def replicate(tree: Tree) -> Any:
    """Gather the arrays of a tree that are sharded explicitly, and leave everything else as it is.

    Args:
      tree: a tree of anything.

    Examples:
      >>> replicate([1.0, None])
      [1.0, None]
    """

    def replicated(x: Any) -> Any:
        typed = typed_sharding(x)
        return x if typed is None else jax.sharding.reshard(x, NamedSharding(typed.mesh, PartitionSpec()))

    return jax.tree.map(replicated, tree)

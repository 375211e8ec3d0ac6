"""A function of stacks on the shard that each device owns, inside every kind of user loop."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from precond.mesh.born import constrained
from precond.mesh.collectives import collectives_over
from precond.mesh.place import Extent, Place

__all__ = ["on_shards"]


def _with_whole_state(body: Callable[..., Any], place: Place, given: Any, state: Any, extents: Any) -> Any:
    """In the user's own `shard_map` or `pmap`, where each device may have its share of the state, or all of it."""

    def divided(x: jax.Array, extent: Extent) -> tuple[str, ...]:
        """The axes over which it is yet to be divided."""
        n, count = extent.length, place.over(extent.axes).count
        if n and x.shape[0] not in (n, n // count):
            raise ValueError(
                f"The state has a stack of {x.shape[0]} blocks, where {n}, or {n // count} on each of "
                f"{count} devices, are needed. Was it made with another multiple or block_size?"
            )
        return extent.axes if n and x.shape[0] == n else ()

    leaves, treedef = jax.tree.flatten(state)
    over = [divided(x, e) for x, e in zip(leaves, treedef.flatten_up_to(extents), strict=True)]
    shares = {axes: collectives_over(place.over(axes)) for axes in over}
    mine = [shares[axes].local(x) for x, axes in zip(leaves, over, strict=True)]
    out, new = body(given, treedef.unflatten(mine))
    made = treedef.flatten_up_to(new)
    for axes, share in shares.items():
        which = [i for i, a in enumerate(over) if a == axes]
        for i, x in zip(which, share.all_gather([made[i] for i in which]), strict=True):
            made[i] = x
    return out, treedef.unflatten(made)


def on_shards(
    body: Callable[..., Any],
    place: Place | None,
    given: Any,
    state: Any,
    extents: Any,
    *,
    coming: Any = PartitionSpec(),
    going: Any = PartitionSpec(),
) -> Any:
    """Run a function of stacks on every device, each with its share of the state.

    Args:
      body: from the tree `given` and the device's share of the state, to a tree of arrays, and its share of the new
        state (see `collectives_over`).
      place: None runs it once, where a share is everything.
      given: a tree of arrays.
      state: a tree of arrays. In the user's own `shard_map` each device has its share of it, or all (then new state is
        gathered in every step, as `pmap` needs where the state is not sharded).
      extents: an `Extent` for each array of the state.
      coming: how `given` is divided, as specifications for it or parts of it; by default every device is given all.
        In the user's own `shard_map` what is there comes.
      going: likewise for what `body` returns first; by default it is the same on all devices.

    Raises:
      ValueError: where stacks of the state have another length.

    Examples:
      >>> import jax.numpy as jnp
      >>> on_shards(lambda x, s: (x * 2, s + 1), None, jnp.ones(2), 0, None)
      (Array([2., 2.], dtype=float32), 1)
    """
    if place is None:
        return body(given, state)
    if place.kind == AxisType.Manual:
        return _with_whole_state(body, place, given, state, extents)
    states = jax.tree.map(lambda e: e.spec, extents)
    if place.kind == AxisType.Explicit:
        state = constrained(place, state, extents)
    run = jax.shard_map(
        body,
        # A mesh in the context must not be named again.
        mesh=place.mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(coming, states),
        out_specs=(going, states),
        axis_names=set(place.axes),
    )
    return run(given, state)

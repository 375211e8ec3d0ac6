"""A function of stacks on the shard that each device owns, inside every kind of user loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from precond.mesh.born import constrained
from precond.mesh.place import Place
from precond.mesh.share import WHOLE, share_of

__all__ = ["on_shards"]


def _with_whole_state(body: Callable[..., Any], place: Place, whole: Any, state: Any, lengths: Any) -> Any:
    """In the user's own `shard_map` or `pmap`, where each device may have its share of the state, or all of it."""

    def is_whole(x: jax.Array, n: int) -> bool:
        if n and x.shape[0] not in (n, n // place.count):
            raise ValueError(
                f"The state has a stack of {x.shape[0]} blocks, where {n}, or {n // place.count} on each of "
                f"{place.count} devices, are needed. Was it made with another multiple or block_size?"
            )
        return bool(n) and x.shape[0] == n

    share = share_of(place)
    leaves, treedef = jax.tree.flatten(state)
    held = [is_whole(x, n) for x, n in zip(leaves, treedef.flatten_up_to(lengths), strict=True)]
    mine = [share.own(x) if h else x for x, h in zip(leaves, held, strict=True)]
    out, new = body(share, whole, treedef.unflatten(mine))
    made = treedef.flatten_up_to(new)
    again = iter(share.gather([x for x, h in zip(made, held, strict=True) if h]))
    return out, treedef.unflatten([next(again) if h else x for x, h in zip(made, held, strict=True)])


def on_shards(body: Callable[..., Any], place: Place | None, whole: Any, state: Any, lengths: Any) -> Any:
    """Run a function of stacks on every device, each with its share of the state.

    Args:
      body: from a `Share`, the tree `whole` and the device's share of the state, to anything that is the same on all
        devices, and its share of the new state.
      place: None runs it once, where a share is everything.
      whole: a tree of arrays that every device is given whole.
      state: a tree of arrays. In the user's own `shard_map` each device has its share of it, or all (then new state is
        gathered in every step, as `pmap` needs where the state is not sharded).
      lengths: of the leading axis of each array of the state, where it is that of a stack; 0 elsewhere.

    Raises:
      ValueError: where stacks of the state have another length.

    Examples:
      >>> on_shards(lambda share, x, s: (share.gather(share.own(x) * 2), s + 1), None, jnp.ones(2), 0, 0)
      (Array([2., 2.], dtype=float32), 1)
    """
    if place is None:
        return body(WHOLE, whole, state)
    if place.kind == AxisType.Manual:
        return _with_whole_state(body, place, whole, state, lengths)
    shard, every = PartitionSpec(place.axes), PartitionSpec()
    states = jax.tree.map(lambda n: shard if n else every, lengths)
    if place.kind == AxisType.Explicit:
        state = constrained(place, state, lengths)
    run = jax.shard_map(
        functools.partial(body, share_of(place)),
        # A mesh in the context must not be named again.
        mesh=place.mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(every, states),
        out_specs=(every, states),
        axis_names=set(place.axes),
    )
    return run(whole, state)

"""One mechanism on every mesh: a function of stacks runs on the shard that this device owns. Floor 1 of the library."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from precond.arguments import check_whole

__all__ = ["Place", "Sharded", "Share", "born", "find_place", "on_shards", "sharded", "with_local_arrays"]


class Sharded(NamedTuple):
    """How stacks are divided over devices; made by `precond.sharded`, whose arguments these are."""

    axis: tuple[str, ...] | None
    multiple: int
    wire: Any


def sharded(
    axis: str | Sequence[str] | None, *, multiple: int | None = None, wire: jax.typing.DTypeLike | None = None
) -> Sharded:
    """How stacks are divided over devices: what `axis=` takes where a name alone does not say enough.

    Args:
      axis: the name of a mesh axis, or several, over which the leading axis of every stack is divided; None divides
        nothing (and with a `multiple` makes checkpoints that a divided run can go on from).
      multiple: stacks are padded to a multiple of it with blocks of zeros. It must be a multiple of the number of
        devices, and never depend on it: a run that moves to another number of devices keeps its `multiple`, and its
        checkpoints fit. None is 8 with an axis and 1 without.
      wire: the dtype in which directions are gathered from the devices, which rounds them once; None is the widest of
        the gradients (bfloat16 gradients: bfloat16, where nothing is lost, as updates have the gradients' dtype).

    Raises:
      ValueError, TypeError: for a multiple that is no positive integer, a wire that is no floating dtype, no axes.

    Examples:
      >>> sharded("data")
      Sharded(axis=('data',), multiple=8, wire=None)
      >>> sharded(("data", "model"), multiple=32, wire="bfloat16").wire
      dtype(bfloat16)
    """
    if axis is not None:
        axes = (axis,) if isinstance(axis, str) else axis
        if not isinstance(axes, Sequence) or not all(isinstance(a, str) for a in axes):
            raise TypeError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        if not axes:
            raise ValueError(f"axis={axis!r}: pass the name of a mesh axis, several names, or None.")
        axis = tuple(axes)
    if multiple is None:
        multiple = 1 if axis is None else 8
    check_whole("multiple", multiple, least=1)
    if wire is not None:
        wire = jnp.dtype(wire)
        if not jnp.issubdtype(wire, jnp.floating):
            raise TypeError(f"wire={wire.name}: directions travel as floating numbers, such as jnp.bfloat16.")
    return Sharded(axis, multiple, wire)


class Place(NamedTuple):
    """Where stacks are sharded.

    Attributes:
      axes: names of mesh axes; the leading axis of every stack is divided over all of them.
      mesh: that has them.
      kind: of these axes: Auto, Explicit, or Manual inside the user's own `shard_map` or `pmap`.
      count: the number of shards.
    """

    axes: tuple[str, ...]
    mesh: Any
    kind: AxisType
    count: int

    @property
    def sharding(self) -> NamedSharding:
        """That of a stack, seen as a whole."""
        return NamedSharding(self.mesh, PartitionSpec(self.axes))


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
    return Place(axes, found, kinds.pop(), count)


def born(place: Place | None, make: Callable[[], Any], lengths: Any, params: Any) -> Any:
    """Make a state that is sharded from the start, and never whole on one device.

    Args:
      place: None makes it as it is, and so does the inside of the user's own `shard_map`.
      make: a tree of arrays.
      lengths: of the leading axis of each, where it is that of a stack; 0 elsewhere.
      params: a tree of arrays that are on the mesh.

    Examples:
      >>> born(None, lambda: jnp.ones(3), 3, jnp.ones(1)).shape
      (3,)
    """
    if place is None or place.kind == AxisType.Manual:
        return make()
    if isinstance(place.mesh, jax.sharding.Mesh):
        whole = NamedSharding(place.mesh, PartitionSpec())
        return jax.jit(make, out_shardings=jax.tree.map(lambda n: place.sharding if n else whole, lengths))()

    def tied(arrays: list[jax.Array]) -> Any:
        # jit runs where its arguments are. A state made of nothing would have none, and stand on one device.
        some = jnp.any(arrays[0] != arrays[0]) if arrays else False
        return _sharded(place, jax.tree.map(lambda x: jnp.where(some, x, x), make()), lengths)

    return jax.jit(tied)([x for x in jax.tree.leaves(params) if isinstance(x, jax.Array)])


def _sharded(place: Place, tree: Any, lengths: Any) -> Any:
    constrain = jax.sharding.reshard if place.kind == AxisType.Explicit else lax.with_sharding_constraint
    return jax.tree.map(lambda x, n: constrain(x, place.sharding) if n else x, tree, lengths)


class Share(NamedTuple):
    """How a function on one device takes its share of stacks, and makes whole ones of all shares.

    Attributes:
      own: from a tree of whole stacks to this device's blocks.
      gather: back, with one collective for each dtype.
    """

    own: Callable[[Any], Any]
    gather: Callable[[Any], Any]


def _share(place: Place) -> Share:
    def own(tree: Any) -> Any:
        index = lax.axis_index(place.axes)

        def one(x: jax.Array) -> jax.Array:
            n = x.shape[0] // place.count
            return lax.dynamic_slice_in_dim(x, index * n, n)

        return jax.tree.map(one, tree)

    def gather(tree: Any) -> Any:
        leaves, treedef = jax.tree.flatten(tree)
        out = list(leaves)
        for dtype in dict.fromkeys(x.dtype for x in leaves):
            which = [i for i, x in enumerate(leaves) if x.dtype == dtype]
            flat = jnp.concatenate([leaves[i].reshape(-1) for i in which])
            # "invarying": that the result is the same on all devices is in its type, for the user's shard_map.
            whole, start = lax.all_gather(flat, place.axes, to="invarying"), 0
            for i in which:
                x = leaves[i]
                out[i] = whole[:, start : start + x.size].reshape(place.count * x.shape[0], *x.shape[1:])
                start += x.size
        return treedef.unflatten(out)

    return Share(own, gather)


def _with_whole_state(body: Callable[..., Any], place: Place, whole: Any, state: Any, lengths: Any) -> Any:
    """In the user's own `shard_map` or `pmap`, where each device may have its share of the state, or all of it."""

    def is_whole(x: jax.Array, n: int) -> bool:
        if n and x.shape[0] not in (n, n // place.count):
            raise ValueError(
                f"The state has a stack of {x.shape[0]} blocks, where {n}, or {n // place.count} on each of "
                f"{place.count} devices, are needed. Was it made with another multiple or block_size?"
            )
        return bool(n) and x.shape[0] == n

    share = _share(place)
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
        return body(Share(lambda tree: tree, lambda tree: tree), whole, state)
    if place.kind == AxisType.Manual:
        return _with_whole_state(body, place, whole, state, lengths)
    shard, every = PartitionSpec(place.axes), PartitionSpec()
    states = jax.tree.map(lambda n: shard if n else every, lengths)
    if place.kind == AxisType.Explicit:
        state = _sharded(place, state, lengths)
    run = jax.shard_map(
        functools.partial(body, _share(place)),
        # A mesh in the context must not be named again.
        mesh=place.mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(every, states),
        out_specs=(every, states),
        axis_names=set(place.axes),
    )
    return run(whole, state)


def with_local_arrays(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Let an `update` that reshapes run under meshes with explicit sharding, where arrays carry their sharding.

    There it is an error to merge a sharded axis with another. So updates and parameters are gathered before, and
    what comes out gets the sharding that went in. Under any other mesh, and without one, nothing is done.

    Args:
      update: an Optax update function.

    Returns:
      An update function of the same signature.
    """

    def replicated(x: jax.Array) -> jax.Array:
        return jax.sharding.reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec()))

    @functools.wraps(update)
    def wrapped(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(updates)
        mesh = jax.typeof(leaves[0]).sharding.mesh if leaves else None
        if mesh is None or mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return update(updates, state, params, **extra)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, updates)
        updates, params = jax.tree.map(replicated, (updates, params))
        out, state = update(updates, state, params, **extra)
        return jax.tree.map(jax.sharding.reshard, out, shardings), state

    return wrapped

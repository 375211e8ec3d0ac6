"""How a training step lies on a mesh: axes, the specification of every parameter, and what the optimizer is told."""

import math
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

SMALLEST = 1 << 12
"""Smaller parameters are on every device."""


class Loop(NamedTuple):
    """A way to train."""

    axes: tuple[str, ...]
    says: str
    whole: bool = True
    """Whether parameters are on every device."""
    told: bool = False
    """Whether the optimizer is told over which axes gradients are divided."""
    explicit: bool = False
    alone: bool = False
    """Whether only the optimizer's update is compiled, without the model."""


LOOPS = {
    "update": Loop(("data",), "the optimizer alone, parameters on every device", alone=True),
    "dp": Loop(("data",), "data parallel"),
    "fsdp": Loop(("data",), "fully sharded, automatic axes", whole=False),
    "fsdp-told": Loop(("data",), "fully sharded, automatic axes, with gradients=", whole=False, told=True),
    "fsdp-explicit": Loop(("data",), "fully sharded, explicit axes", whole=False, explicit=True),
    "mixed": Loop(("data", "fsdp", "tensor"), "data x fsdp x tensor, with gradients=", whole=False, told=True),
}


def sides_of(devices, axes):
    """How many devices each axis of a mesh has.

    >>> sides_of(8, 1), sides_of(8, 3), sides_of(64, 3), sides_of(256, 3), sides_of(1, 3)
    ((8,), (2, 2, 2), (4, 4, 4), (8, 8, 4), (1, 1, 1))
    """
    sides = []
    for left in range(axes, 0, -1):
        power = math.ceil(round(math.log2(devices), 6) / left)
        sides.append(min(devices, 2**power))
        devices //= sides[-1]
    return tuple(sides)


def mesh_of(loop, devices):
    """The mesh of a loop over all devices of a target."""
    kind = AxisType.Explicit if loop.explicit else AxisType.Auto
    grid = np.array(devices).reshape(sides_of(len(devices), len(loop.axes)))
    return Mesh(grid, loop.axes, axis_types=(kind,) * len(loop.axes))


def specification(loop, mesh, shape):
    """Where a parameter is divided: along its last side over `tensor`, along the longest that is left over the rest."""
    if loop.whole or math.prod(shape) < SMALLEST:
        return P()
    spec = [None] * len(shape)
    for axis in ("tensor", "fsdp" if "fsdp" in loop.axes else "data"):
        n = mesh.shape.get(axis, 1)
        free = [d for d, side in enumerate(shape) if spec[d] is None and side % n == 0]
        if n > 1 and free:
            side = free[-1] if axis == "tensor" else max(free, key=lambda d: shape[d])
            spec[side] = axis
    return P(*spec)


def axis_of(loop, mesh):
    """What the optimizer takes as `axis=`."""
    if mesh.size == 1:
        return None
    divided = () if loop.whole or not loop.told else tuple(a for a in loop.axes if a != "data" or len(loop.axes) == 1)
    return precond.sharded(loop.axes, multiple=max(8, mesh.size), gradients=divided)


def placed(mesh, tree, specs):
    """Shapes with shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, s)), tree, specs
    )


def everywhere(mesh, tree):
    """Shapes of what every device has whole."""
    return placed(mesh, tree, jax.tree.map(lambda _: P(), tree))


def lowered(loop, mesh, model, tx, params, extra):
    """Trace a step for a mesh, with its state where the optimizer has it, and parameters and state donated.

    Args:
      loop: one of `LOOPS`.
      mesh: of the loop.
      model: gives the loss and a batch.
      tx: the optimizer.
      params: shapes with shardings.
      extra: what `tx.update` takes by name; in a loop with a model it is given None.
    """
    state = state_of(mesh, tx, params)
    results = jax.tree.map(lambda x: x.sharding, (params, state))
    if loop.alone:
        step, arguments = _update(tx), (params, state, params, everywhere(mesh, extra))
    else:  # K-FAC's usual step, in which no factors are captured
        extra = dict.fromkeys(extra)
        rows = P(tuple(a for a in loop.axes if a != "tensor"))
        batch = (placed(mesh, x, rows) for x in model.batch(mesh.size // mesh.shape.get("tensor", 1)))
        step, arguments = _whole(loop, model, tx, params, extra), (params, state, *batch)
        results = (*results, NamedSharding(mesh, P()))
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=results)
    if not loop.explicit:
        return jitted.lower(*arguments)
    with jax.set_mesh(mesh):
        return jitted.lower(*arguments)


def state_of(mesh, tx, params):
    """The shapes of the optimizer's state, with shardings."""
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    shardings = precond.state_shardings(tx, params, mesh)
    return placed(mesh, jax.eval_shape(tx.init, plain), jax.tree.map(lambda s: s.spec, shardings))


def _update(tx):
    """The optimizer alone."""
    tx = optax.with_extra_args_support(tx)

    def update(params, state, grads, extra):
        with jax.named_scope("optimizer"):
            updates, state = tx.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

    return update


def _whole(loop, model, tx, params, extra):
    """The gradient of the model, and the optimizer."""
    update, differentiate = _update(tx), jax.value_and_grad(model.loss)
    if loop.explicit:  # the model is the compiler's business, and the optimizer sees the types
        specs = jax.tree.map(lambda x: x.sharding.spec, params)
        differentiate = jax.sharding.auto_axes(differentiate, axes=loop.axes, out_sharding=(P(), specs))

    def step(params, state, *batch):
        value, grads = differentiate(params, *batch)
        return *update(params, state, grads, extra), value

    return step

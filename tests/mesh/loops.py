"""Every kind of training loop over devices, as a function from an optimizer's maker to final parameters."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

__all__ = ["LOOPS", "make", "one_device", "stacks_to"]

STEPS = 6
BATCH = 32


def make(axis="data", mesh=None, refresh=precond.every(2, stagger=True), **arguments):
    """Shampoo with ragged stacks of several sizes."""
    given = {"learning_rate": 0.05, "damping": 1e-3, "block_size": 8, "refresh": refresh} | arguments
    return precond.shampoo(axis=axis, mesh=mesh, **given)


def parameters(dtype="float64"):
    rng = np.random.default_rng(0)
    shapes = {"first": {"kernel": (16, 24), "bias": (24,)}, "middle": (2, 24, 24), "last": {"kernel": (24, 8)}}
    normal = lambda s: jnp.asarray(rng.standard_normal(s) * 0.3, dtype)  # noqa: E731
    return jax.tree.map(normal, shapes, is_leaf=lambda s: isinstance(s, tuple))


def data(dtype="float64"):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((BATCH, 16))
    return jnp.asarray(x, dtype), jnp.asarray(np.sin(x @ rng.standard_normal((16, 8))), dtype)


def loss(p, x, y):
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit in mesh.axis_types:  # where a sharded batch meets no sharded weight
        p = jax.tree.map(lambda w: jax.sharding.reshard(w, NamedSharding(mesh, P())), p)
    h = jnp.tanh(x @ p["first"]["kernel"] + p["first"]["bias"])
    for i in range(2):
        h = jnp.tanh(h @ p["middle"][i])
    return jnp.mean((h @ p["last"]["kernel"] - y) ** 2)


def trainer(tx):
    """One step of training, given whole arrays."""

    def step(p, s, x, y):
        updates, s = tx.update(jax.grad(loss)(p, x, y), s, p)
        return optax.apply_updates(p, updates), s

    return step


def stacks_to(state, stack, other=P()):
    """A specification for each array of a state: `stack` for those that `blocked` shards."""

    def spec(path, x):
        return stack if x.ndim and "stacks" in jax.tree_util.keystr(path) else other

    return jax.tree_util.tree_map_with_path(spec, state)


def train(step, p, s, batch, steps=STEPS):
    for _ in range(steps):
        p, s = step(p, s, *batch)
    return p


def one_device(tx=None, steps=STEPS):
    """What every loop must come to."""
    tx = make(axis=precond.sharded(None, multiple=8)) if tx is None else tx
    p = parameters()
    return train(jax.jit(trainer(tx)), p, jax.jit(tx.init)(p), data(), steps)


def mesh_of(kind=AxisType.Auto, shape=(8,), names=("data",)):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names), devices=devices)


def context_of(mesh, used):
    return jax.set_mesh(mesh) if used else contextlib.nullcontext()


FSDP = {"first": {"kernel": P("data"), "bias": P("data")}, "middle": P(None, "data"), "last": {"kernel": P("data")}}
MODEL = {
    "first": {"kernel": P(None, "model"), "bias": P("model")},
    "middle": P(None, "model"),
    "last": {"kernel": P("model")},
}


def put(tree, mesh, specs=P()):
    if isinstance(specs, P):
        specs = jax.tree.map(lambda _: specs, tree)
    return jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, specs)


def jitted(
    tx_of: Callable[..., Any],
    kind: AxisType = AxisType.Auto,
    context: bool = False,
    mesh: Any = None,
    specs: Any = P(),
    given: bool = False,
    axis: Any = "data",
    eager_init: bool = False,
    scanned: bool = False,
    lower: bool = False,
) -> Any:
    """jit under a mesh; parameters placed by `specs`."""
    mesh = mesh_of(kind) if mesh is None else mesh
    with context_of(mesh, context):
        tx = tx_of(axis, mesh if given else None)
        p = put(parameters(), mesh, specs)
        s = tx.init(p) if eager_init else jax.jit(tx.init)(p)
        batch = put(data(), mesh, P("data"))
        step = trainer(tx)
        if scanned:

            def many(p, s, x, y):
                return jax.lax.scan(lambda c, _: (step(*c, x, y), None), (p, s), length=STEPS)[0]

            return jax.jit(many)(p, s, *batch)[0]
        if lower:
            return jax.jit(step).lower(p, s, *batch), s
        return train(jax.jit(step, donate_argnums=(0, 1)), p, s, batch)


def shard_mapped(
    tx_of: Callable[..., Any],
    sharded: bool = True,
    vma: bool = True,
    kind: AxisType = AxisType.Auto,
    partial: bool = False,
    scanned: bool = False,
) -> Any:
    """The user's own shard_map around gradient, mean and update."""
    mesh = mesh_of(kind, (4, 2), ("data", "model")) if partial else mesh_of(kind)
    tx = tx_of("data", None)
    p = parameters()
    with jax.set_mesh(mesh):
        s = jax.jit(tx.init)(p)
        states = stacks_to(s, P("data") if sharded else P())

        def local(p, s, x, y):
            if vma:  # the gradient of what is the same everywhere is summed already
                grads = jax.grad(lambda p: jax.lax.pmean(loss(p, x, y), "data"))(p)
            else:
                grads = jax.lax.pmean(jax.grad(loss)(p, x, y), "data")
            updates, s = tx.update(grads, s, p)
            return optax.apply_updates(p, updates), s

        def body(p, s, x, y):
            if not scanned:
                return local(p, s, x, y)
            return jax.lax.scan(lambda c, _: (local(*c, x, y), None), (p, s), length=STEPS)[0]

        step = jax.jit(
            jax.shard_map(
                body,
                in_specs=(P(), states, P("data"), P("data")),
                out_specs=(P(), states),
                axis_names={"data"},
                check_vma=vma,
            )
        )
        p, s = put(p, mesh), put(s, mesh, states)
        batch = put(data(), mesh, P("data"))
        return step(p, s, *batch)[0] if scanned else train(step, p, s, batch)


def pmapped(tx_of: Callable[..., Any]) -> Any:
    """pmap, with everything replicated."""
    tx, n = tx_of("data", None), 8
    everywhere = functools.partial(jax.tree.map, lambda x: jnp.broadcast_to(x, (n, *x.shape)))

    @functools.partial(jax.pmap, axis_name="data")
    def step(p, s, x, y):
        grads = jax.lax.pmean(jax.grad(loss)(p, x, y), "data")
        updates, s = tx.update(grads, s, p)
        return optax.apply_updates(p, updates), s

    p = parameters()
    p, s = everywhere(p), everywhere(tx.init(p))
    batch = [x.reshape(n, -1, *x.shape[1:]) for x in data()]
    return jax.tree.map(lambda x: x[3], train(step, p, s, batch))


def ensemble(tx_of: Callable[..., Any]) -> Any:
    """Three models at once, vmapped, on the mesh."""
    mesh = mesh_of()
    tx = tx_of("data", mesh)
    p = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x, x]), parameters())
    s = jax.jit(jax.vmap(tx.init))(p)
    step = jax.jit(jax.vmap(trainer(tx), in_axes=(0, 0, None, None)))
    return jax.tree.map(lambda x: x[2], train(step, p, s, data()))


AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def _two(kind):
    return mesh_of(kind, (4, 2), ("data", "model"))


LOOPS = {
    "no mesh": lambda tx_of: one_device(tx_of("data", None)),
    "auto": jitted,
    "auto, in context": functools.partial(jitted, context=True),
    "auto, given": functools.partial(jitted, given=True),
    "auto, initialised eagerly": functools.partial(jitted, eager_init=True),
    "auto, scanned": functools.partial(jitted, scanned=True),
    "auto, fully sharded": functools.partial(jitted, specs=FSDP),
    "auto, fully sharded, told": lambda tx_of: jitted(
        lambda axis, mesh: tx_of(precond.sharded(axis, gradients=axis), mesh), specs=FSDP
    ),
    "auto, fully sharded, in context": functools.partial(jitted, specs=FSDP, context=True),
    "auto, data and model": lambda tx_of: jitted(tx_of, mesh=_two(AUTO), specs=MODEL),
    "auto, data and model, in context": lambda tx_of: jitted(tx_of, mesh=_two(AUTO), specs=MODEL, context=True),
    "auto, stacks over both": lambda tx_of: jitted(tx_of, mesh=_two(AUTO), specs=MODEL, axis=("data", "model")),
    "explicit": functools.partial(jitted, kind=EXPLICIT, eager_init=True),
    "explicit, in context": functools.partial(jitted, kind=EXPLICIT, context=True),
    "explicit, scanned": functools.partial(jitted, kind=EXPLICIT, context=True, scanned=True),
    "explicit, fully sharded": functools.partial(jitted, kind=EXPLICIT, specs=FSDP, eager_init=True),
    "explicit, fully sharded, in context": functools.partial(jitted, kind=EXPLICIT, specs=FSDP, context=True),
    "shard_map": shard_mapped,
    "shard_map, unchecked": functools.partial(shard_mapped, vma=False),
    "shard_map, state replicated": functools.partial(shard_mapped, sharded=False),
    "shard_map, over one axis of two": functools.partial(shard_mapped, partial=True),
    "shard_map, scanned": functools.partial(shard_mapped, scanned=True),
    "shard_map, explicit": functools.partial(shard_mapped, kind=EXPLICIT),
    "pmap": pmapped,
    "vmapped ensemble": ensemble,
}

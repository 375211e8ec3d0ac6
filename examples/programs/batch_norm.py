"""A convolutional network with BatchNorm over all devices, in `jax.pmap` as Flax's ImageNet example, or `shard_map`.

Gradients are averaged over the devices before they come to the optimizer, which is the same on all of them. With
`axis="batch"` each device computes the directions of its part of the blocks; under `pmap` every device keeps all state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

RATE, STEPS = 3e-3, 100
OPTIONS = {"axis": "batch"}
SIDE, CLASSES, BATCH = 8, 4, 64


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 16):
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name="batch")(x))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def data(seed):
    """Noisy stripes, which have one of four directions and any place."""
    random, grid = np.random.default_rng(seed), np.stack(np.meshgrid(*[np.arange(SIDE)] * 2))
    while True:
        y = random.integers(CLASSES, size=BATCH)
        wave = 1.8 * np.stack([np.cos(y * np.pi / CLASSES), np.sin(y * np.pi / CLASSES)], axis=1)
        places = np.einsum("bi,ihw->bhw", wave, grid) + random.uniform(0, 2 * np.pi, (BATCH, 1, 1))
        yield (np.cos(places) + random.standard_normal((BATCH, SIDE, SIDE)))[..., None].astype(np.float32), y


def start(seed):
    variables = Network().init(jax.random.key(seed), jnp.zeros((1, SIDE, SIDE, 1)))
    return variables["params"], variables["batch_stats"]


def step(tx, params, stats, state, x, y):
    """What each device does with its part of the batch."""

    def loss(params):
        logits, new = Network().apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new["batch_stats"]

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
    value, grads = jax.lax.pmean((value, grads), "batch")
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), stats, state, value


def train_by_pmap(tx, steps=STEPS, seed=0):
    params, stats = start(seed)
    n = jax.device_count()
    everywhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), (params, stats, tx.init(params)))
    mapped, losses, batches = jax.pmap(functools.partial(step, tx), axis_name="batch"), [], data(seed)
    for _ in range(steps):
        x, y = (a.reshape(n, BATCH // n, *a.shape[1:]) for a in next(batches))
        *everywhere, value = mapped(*everywhere, x, y)
        losses.append(float(value[0]))
    return losses


def train(tx, steps=STEPS, seed=0):
    params, stats = start(seed)
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    params, stats = jax.device_put((params, stats), NamedSharding(mesh, P()))
    state = jax.jit(tx.init, out_shardings=precond.state_shardings(tx, params, mesh))(params)
    divided = jax.tree.map(lambda x: x.sharding.spec, state)
    specs = (P(), P(), divided)
    mapped = jax.shard_map(
        functools.partial(step, tx),
        mesh=mesh,
        in_specs=(*specs, P("batch"), P("batch")),
        out_specs=(*specs, P()),
        check_vma=False,
    )
    mapped, losses, batches = jax.jit(mapped), [], data(seed)
    for _ in range(steps):
        params, stats, state, value = mapped(params, stats, state, *next(batches))
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

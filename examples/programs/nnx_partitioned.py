"""A Flax nnx model whose parameters say how they are divided over a mesh, with `nnx.Optimizer`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

RATE, STEPS = 1e-3, 100
OPTIONS = {"axis": ("data", "model")}
INPUTS, WIDTH, HIDDEN, BLOCKS, CLASSES, BATCH = 32, 32, 64, 4, 10, 64


def divided(*names):
    return nnx.with_partitioning(nnx.initializers.lecun_normal(), names)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, kernel_init=divided(None, "model"), rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, kernel_init=divided("model", None), rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(self.norm(x))))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(INPUTS, WIDTH, kernel_init=divided(None, "model"), rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def devices():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def born(tx, seed):
    """Model and optimizer, made under `jit` so that no device ever has all of them."""

    @nnx.jit
    def make():
        model = Model(nnx.Rngs(seed))
        state = nnx.state(model)
        nnx.update(model, jax.lax.with_sharding_constraint(state, nnx.get_partition_spec(state)))
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    return make()


def data(seed):
    """Inputs, and the class that a random network of two layers gives them."""
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((INPUTS, 64)), random.standard_normal((64, CLASSES))
    while True:
        x = random.standard_normal((BATCH, INPUTS)).astype(np.float32)
        yield x, np.argmax(np.tanh(x @ first) @ second, axis=-1)


@nnx.jit
def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def train(tx, steps=STEPS, seed=0):
    mesh, losses, batches = devices(), [], data(seed)
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        model, optimizer = born(tx, seed)
        for _ in range(steps):
            x, y = jax.device_put(next(batches), rows)
            losses.append(float(step(model, optimizer, jnp.asarray(x), y)))
    return losses


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

"""A convolutional network in the shape of Equinox: modules are dataclasses and trees, weights are `[out, in, ..]`.

Functions are leaves of such a tree, too. As in Equinox they are taken out before the optimizer sees it (`arrays`, which
is `equinox.filter`), and what is left has None in their place and for biases that are not used.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond

RATE, STEPS = 1e-3, 100
OPTIONS = {"views": precond.views.equinox}
SIDE, CLASSES, BATCH = 8, 4, 64


def module(cls):
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@module
class Linear:
    weight: Any
    bias: Any

    @staticmethod
    def new(key, inputs, outputs):
        return Linear(jax.random.normal(key, (outputs, inputs)) * inputs**-0.5, jnp.zeros(outputs))

    def __call__(self, x):
        return self.weight @ x + self.bias


@module
class Conv:
    weight: Any
    bias: Any

    @staticmethod
    def new(key, inputs, outputs):
        return Conv(jax.random.normal(key, (outputs, inputs, 3, 3)) * (9 * inputs) ** -0.5, None)

    def __call__(self, x):
        return jax.lax.conv(x[None], self.weight, (2, 2), "SAME")[0]


@module
class Network:
    layers: list
    activation: Any

    @staticmethod
    def new(key):
        a, b, c, d = jax.random.split(key, 4)
        layers = [Conv.new(a, 1, 16), Conv.new(b, 16, 32), Linear.new(c, 32 * (SIDE // 4) ** 2, 64)]
        return Network([*layers, Linear.new(d, 64, CLASSES)], jax.nn.gelu)

    def __call__(self, x):
        first, second, third, last = self.layers
        x = self.activation(second(self.activation(first(x)))).ravel()
        return last(self.activation(third(x)))


def arrays(tree):
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, tree)


def combine(tree, rest):
    return jax.tree.map(lambda x, y: y if x is None else x, tree, rest, is_leaf=lambda x: x is None)


def data(seed):
    """Noisy stripes, which have one of four directions and any place."""
    random, grid = np.random.default_rng(seed), np.stack(np.meshgrid(*[np.arange(SIDE)] * 2))
    while True:
        y = random.integers(CLASSES, size=BATCH)
        wave = 1.8 * np.stack([np.cos(y * np.pi / CLASSES), np.sin(y * np.pi / CLASSES)], axis=1)
        places = np.einsum("bi,ihw->bhw", wave, grid) + random.uniform(0, 2 * np.pi, (BATCH, 1, 1))
        noise = random.standard_normal((BATCH, SIDE, SIDE))
        yield (np.cos(places) + noise)[:, None].astype(np.float32), y


def train(tx, steps=STEPS, seed=0):
    model, batches, losses = Network.new(jax.random.key(seed)), data(seed), []
    rest = jax.tree.map(lambda x: None if isinstance(x, jax.Array) else x, model)
    params = arrays(model)
    state = tx.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = jax.vmap(combine(params, rest))(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(steps):
        params, state, value = step(params, state, *next(batches))
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

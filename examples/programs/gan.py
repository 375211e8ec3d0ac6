"""A GAN: two networks and two optimizers in one step. Points in the plane shall form a ring of eight clouds.

It returns the energy distance between generated and real points.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import precond

RATE, STEPS = 1e-3, 300
ADAMW = OPTIONS = {"b1": 0.5}  # little momentum, as usual for a GAN
NOISE, BATCH = 8, 128


class MLP(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(self.outputs)(x)


GENERATOR, DISCRIMINATOR = MLP(2), MLP(1)


def real_points(key):
    where, noise = jax.random.split(key)
    angle = jax.random.randint(where, (BATCH,), 0, 8) * jnp.pi / 4
    ring = jnp.stack([2 + jnp.cos(angle), 1 + jnp.sin(angle)], axis=1)
    return ring + 0.1 * jax.random.normal(noise, (BATCH, 2))


def energy_distance(x, y):
    def mean(a, b):
        return jnp.sqrt(jnp.sum((a[:, None] - b) ** 2, axis=-1) + 1e-12).mean()

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def train(tx, steps=STEPS, seed=0):
    first, second, key = jax.random.split(jax.random.key(seed), 3)
    generator = GENERATOR.init(first, jnp.zeros((1, NOISE)))
    discriminator = DISCRIMINATOR.init(second, jnp.zeros((1, 2)))
    states = tx.init(generator), tx.init(discriminator)

    def generate(generator, key):
        return GENERATOR.apply(generator, jax.random.normal(key, (BATCH, NOISE)))

    @jax.jit
    def step(generator, discriminator, states, key):
        for_real, for_fakes, for_generator = jax.random.split(key, 3)
        real, fakes = real_points(for_real), generate(generator, for_fakes)

        def judged(discriminator):
            on_real, on_fakes = DISCRIMINATOR.apply(discriminator, real), DISCRIMINATOR.apply(discriminator, fakes)
            return (nn.softplus(-on_real) + nn.softplus(on_fakes)).mean()

        updates, second = tx.update(jax.grad(judged)(discriminator), states[1], discriminator)
        discriminator = optax.apply_updates(discriminator, updates)

        def fooled(generator):
            return nn.softplus(-DISCRIMINATOR.apply(discriminator, generate(generator, for_generator))).mean()

        updates, first = tx.update(jax.grad(fooled)(generator), states[0], generator)
        return optax.apply_updates(generator, updates), discriminator, (first, second), energy_distance(fakes, real)

    distances = []
    for i in range(steps):
        generator, discriminator, states, distance = step(generator, discriminator, states, jax.random.fold_in(key, i))
        distances.append(float(distance))
    return distances


if __name__ == "__main__":
    print(train(optax.adamw(RATE, **ADAMW))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

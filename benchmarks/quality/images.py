"""Tasks on images: scikit-learn's digits, and random curves."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from autoencoder_kfac import SMALL, Autoencoder, loss
from autoencoder_kfac import curves as images_of_curves
from sklearn.datasets import load_digits

from benchmarks.quality.task import Key, Task, cross_entropy, supervised
from precond import layers


def digits(size: int) -> Callable[[Key], tuple[jax.Array, jax.Array]]:
    """Batches of scikit-learn's digits `[size, 8, 8]`, each moved by up to a pixel, with noise."""
    found = load_digits()
    images = jnp.asarray((found.images - found.images.mean()) / found.images.std(), jnp.float32)
    labels = jnp.asarray(found.target)

    def batch(key: Key) -> tuple[jax.Array, jax.Array]:
        which, where, noise = jax.random.split(key, 3)
        rows = jax.random.randint(which, (size,), 0, len(labels))
        moved = jax.vmap(lambda x, by: jnp.roll(x, by, (0, 1)))(
            images[rows], jax.random.randint(where, (size, 2), -1, 2)
        )
        return moved + 0.5 * jax.random.normal(noise, moved.shape), labels[rows]

    return batch


class Convolutions(nn.Module):
    """Three convolutions, each with BatchNorm, the second and third with a stride."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[..., None]
        for i in range(3):
            x = nn.Conv(self.width << i, (3, 3), strides=min(i, 1) + 1, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def convolutions(*, width: int = 8, size: int = 64, steps: int = 200) -> Task:
    """A small convolutional network with BatchNorm on digits."""
    return supervised(Convolutions(width), digits(size), cross_entropy, layers.categorical(), steps=steps)


class Mixer(nn.Module):
    """Perceptrons over patches of 2 by 2 pixels and over channels, in turns."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x += nn.Dense(16)(nn.gelu(nn.Dense(self.width)(y))).swapaxes(1, 2)
            x += nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def mixer(*, width: int = 32, depth: int = 2, size: int = 64, steps: int = 240) -> Task:
    """An MLP-Mixer on digits."""
    return supervised(Mixer(width, depth), digits(size), cross_entropy, layers.categorical(), steps=steps)


def curves(
    *,
    side: int = 16,
    widths: tuple[int, ...] = SMALL[1],
    images: int = 3000,
    size: int = 128,
    steps: int = 600,
) -> Task:
    """The deep autoencoder of examples/autoencoder_kfac.py, on images of random curves."""
    data = jnp.asarray(images_of_curves(images, side, seed=0))

    def batch(key: Key) -> tuple[jax.Array, jax.Array]:
        x = data[jax.random.randint(key, (size,), 0, images)]
        return x, x

    model = Autoencoder(widths, side * side)
    return supervised(model, batch, loss, layers.bernoulli(), steps=steps, nesterov=1e-3)

"""K-FAC and Adam train a deep autoencoder on CURVES, side by side: images of random Bezier curves.

    python examples/autoencoder_kfac.py          # 16 by 16 images, about a minute on 2 cores
    python examples/autoencoder_kfac.py --full   # 28 by 28 images, the network of Hinton and Salakhutdinov (2006)

Both see the same start and the same batches. Adam's learning rate is the best of a grid, found here. Printed, and
written to examples/results: the loss after so many steps of Adam, and the steps and seconds after which K-FAC has
reached it (means over ten batches; without compilation).
"""

import argparse
import functools
import json
import pathlib
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond
from precond import layers
from precond.layers import linen

RESULTS = pathlib.Path(__file__).parent / "results"
SMALL = (16, (120, 60, 30, 15, 6))
FULL = (28, (400, 200, 100, 50, 25, 6))
ADAM_RATES = (1e-3, 3e-3, 1e-2)


# Sigmoids need wider weights than Flax's default, or the network starts on a plateau that neither method leaves soon.
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(16.0, "fan_in", "normal"))


class Autoencoder(nn.Module):
    """Sigmoid layers down to a linear code, and up again to logits."""

    widths: tuple[int, ...]
    pixels: int

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.sigmoid(Dense(width)(x))
        x = Dense(self.widths[-1])(x)
        for width in reversed(self.widths[:-1]):
            x = nn.sigmoid(Dense(width)(x))
        return Dense(self.pixels)(x)


def curves(count, side, seed):
    """Images `[count, side * side]` of cubic Bezier curves through four random points, with soft edges."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 2 * side)[:, None]
    basis = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    grid = np.arange(side)
    images = np.empty((count, side * side), np.float32)
    for i in range(count):
        points = basis @ rng.uniform(0.1, 0.9, (4, 2)) * side
        near = np.exp(-((grid[None] - points[:, :1]) ** 2)), np.exp(-((grid[None] - points[:, 1:]) ** 2))
        images[i] = np.max(near[0][:, :, None] * near[1][:, None, :], axis=0).ravel()
    return images


def loss(logits, x):
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x), axis=1))


def train(step, carry, data, steps, batch, seed):
    """The loss of each step, and the seconds after it."""
    rng, losses, seconds = np.random.default_rng(seed), [], []
    first = jnp.asarray(data[:batch])
    compiled = jax.jit(step).lower(carry, first, jax.random.key(0)).compile()
    keys, spent = jax.random.split(jax.random.key(seed), steps), 0.0
    for key in keys:
        x = jnp.asarray(data[rng.integers(0, len(data), batch)])
        start = time.perf_counter()
        carry, value = jax.block_until_ready(compiled(carry, x, key))
        spent += time.perf_counter() - start
        losses.append(float(value))
        seconds.append(spent)
    return np.asarray(losses), np.asarray(seconds)


def adam(model, rate):
    tx = optax.adam(rate)

    def step(carry, x, key):
        del key
        params, state = carry
        value, grads = jax.value_and_grad(lambda p: loss(model.apply({"params": p}, x), x))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    return step, tx


def kfac(model, params, example, damping, rate, bound):
    capture = linen.capture(model, {"params": params}, example)
    f = layers.value_grad_factors(
        lambda params, x: capture.apply({"params": params}, x),
        loss,
        capture,
        fisher=layers.sampled(layers.bernoulli()),
    )
    tx = precond.kfac(rate, capture.layers, damping=damping, bound=bound, refresh=5)

    def step(carry, x, key):
        params, state = carry
        value, grads, factors = f(params, x, key=key)
        updates, state = tx.update(grads, state, params, factors=factors)
        return (optax.apply_updates(params, updates), state), value

    return step, tx


def smoothed(losses, window=10):
    return np.convolve(losses, np.ones(window) / window, mode="valid")


def reached(losses, seconds, target):
    """Steps and seconds until the mean over ten batches is at most the target."""
    below = np.flatnonzero(smoothed(losses) <= target)
    if not len(below):
        return None
    step = int(below[0]) + 10
    return step, float(seconds[step - 1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--bound", type=float, default=0.1)
    parser.add_argument("--damping", type=float, default=1e-3)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "autoencoder_kfac.json")
    args = parser.parse_args()
    side, widths = FULL if args.full else SMALL
    data = curves(args.images, side, seed=0)
    model = Autoencoder(widths, side * side)
    rows = []
    for seed in range(args.seeds):
        params = model.init(jax.random.key(seed), data[:1])["params"]
        runs = {}
        for rate in ADAM_RATES:
            step, tx = adam(model, rate)
            runs[rate] = train(step, (params, tx.init(params)), data, args.steps, args.batch, seed)
        best = min(runs, key=lambda rate: smoothed(runs[rate][0])[-1])
        target, seconds = smoothed(runs[best][0])[-1], runs[best][1][-1]
        print(f"seed {seed}: Adam, learning rate {best:g}: {target:.3f} after {args.steps} steps, {seconds:.1f} s")
        step, tx = kfac(model, params, data[:8], args.damping, args.rate, args.bound)
        losses, spent = train(step, (params, tx.init(params)), data, args.steps // 2, args.batch, seed)
        there, end = reached(losses, spent, target), smoothed(losses)[-1]
        print(f"  K-FAC: there after {there} (steps, seconds); {end:.3f} after {len(losses)} steps, {spent[-1]:.1f} s")
        adams = {"rate": best, "loss": float(target), "seconds": float(seconds)}
        rows.append({"seed": seed, "adam": adams, "kfac_there": there, "kfac_end": float(end)})
    args.out.write_text(json.dumps({"jax": jax.__version__, "steps": args.steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

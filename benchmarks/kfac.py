"""What K-FAC adds to the training of a convolutional network, in floating-point operations as XLA counts them.

    python benchmarks/kfac.py            writes results/kfac.json

Everything is compiled and nothing is run. Factorisations, which XLA does not count, are counted by hand: 2 d^3 for the
inverse of a matrix by Cholesky's method.
"""

import argparse
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import measure
import optax

import precond
from precond import layers
from precond.layers import linen
from precond.layers.sharing import Sharing

EVERY, PART, REFRESH = 10, 8, 10
"""Steps between two captures, of which part of the batch they are, and steps between two refreshes (`kfac`'s own)."""


class Cnn(nn.Module):
    """Six convolutions, two of them strided, a mean over positions, and a dense layer, for images of 32 x 32."""

    @nn.compact
    def __call__(self, x):
        for features, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)):
            x = nn.relu(nn.Conv(features, (3, 3), strides=stride)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def loss(logits: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    del x
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def gflop(f: Callable[..., object], *args: object) -> float:
    """Of one call."""
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"] / 1e9


def batch(n: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return jax.ShapeDtypeStruct((n, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)


def statistics(variables: dict, n: int, sharing: Sharing) -> dict[str, float]:
    """Steps with factors of the whole batch, and factors of a part of it alone."""
    x, y = batch(n)
    capture = linen.capture(Cnn(), variables, x, tolerance=None, sharing=sharing)
    params, key = variables["params"], jax.eval_shape(lambda: jax.random.key(0))

    def forward(params, x, *_):
        return capture.apply({"params": params}, x)

    sampled, empirical = layers.sampled(layers.categorical()), layers.empirical()
    whole = layers.value_grad_factors(forward, loss, capture, fisher=sampled)
    own = layers.value_grad_factors(forward, loss, capture, fisher=empirical)
    alone = layers.factors_alone(forward, capture, fisher=sampled)
    return {
        "step_with_factors": gflop(lambda p, x, y, k: whole(p, x, y, key=k), params, x, y, key),
        "step_with_empirical_factors": gflop(own, params, x, y),
        "factors_of_a_part": gflop(lambda p, x, k: alone(p, x, key=k), params, batch(n // PART)[0], key),
    }


def update(variables: dict, n: int) -> dict[str, float]:
    """The optimizer's update without any refresh, and what refreshing all inverses adds to it."""
    params = variables["params"]
    capture = linen.capture(Cnn(), variables, batch(n)[0], tolerance=None)
    factors = jax.eval_shape(lambda p: capture.factors(capture.probes(p), 1.0), params)

    def with_root(root: precond.Root) -> float:
        tx = precond.kfac(1e-2, capture.layers, root=root, refresh=1)
        state = jax.eval_shape(tx.init, params)
        return gflop(lambda g, s, p, f: tx.update(g, s, p, factors=f), params, state, params, factors)

    root = precond.inverse(1e-3)
    plain = with_root(root._replace(refresh=lambda factors, derived, power, first: derived))
    sides = [d for layer in capture.layers.values() for d in layer.size[1:]]
    return {"update": plain, "inverses": with_root(root) - plain + sum(2 * d**3 for d in sides) / 1e9}


def main() -> None:
    """Count, and say what the default periods make of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=512)
    n = parser.parse_args().batch
    variables = jax.eval_shape(Cnn().init, jax.random.key(0), batch(1)[0])

    def value(params, x, y):
        return loss(Cnn().apply({"params": params}, x), x, y)

    plain = gflop(jax.value_and_grad(value), variables["params"], *batch(n))
    counts = {"plain_step": plain, **update(variables, n)}
    for name, sharing in (("expand", layers.expand), ("reduce", layers.reduce)):
        counts |= {f"{key}, {name}": x for key, x in statistics(variables, n, sharing).items()}
        print("compiled", name, flush=True)
    always = counts["update"] + counts["inverses"] / REFRESH
    percent = {}
    for name in ("expand", "reduce"):
        now_and_then = counts[f"factors_of_a_part, {name}"] / EVERY
        percent[f"factors of an eighth of the batch every {EVERY} steps, {name}"] = (now_and_then + always) / plain
        for kind in ("factors", "empirical_factors"):
            more = counts[f"step_with_{kind}, {name}"] - plain
            percent[f"{kind.replace('_', ' ')} of the whole batch every step, {name}"] = (more + always) / plain
    setting = {"batch": n, "statistics_every": EVERY, "part": f"1/{PART}", "inverses_every": REFRESH}
    result = {
        "setting": setting,
        "percent_more_than_a_plain_step": {name: round(100 * x, 1) for name, x in percent.items()},
        "gflop": {name: round(x, 2) for name, x in counts.items()},
    }
    measure.save("kfac", result)


if __name__ == "__main__":
    main()

"""A model in the shape of Haiku: a pure function of a dictionary of dictionaries, `{"mlp/~/linear_0": {"w", "b"}}`.

For K-FAC its layers are named (`layers.explicit`), and marked in the model by a call that returns their output.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond
from precond import layers

RATE, STEPS = 3e-3, 150
KFAC_RATE, KFAC_OPTIONS = 0.3, {"damping": 1e-2, "bound": 1e-2}  # the bound keeps the steps of a large rate small
OPTIONS = {"views": precond.views.haiku}
SYMBOLS, CONTEXT, WIDTH, HIDDEN, BATCH = 16, 3, 16, 64, 64
SIZES = [(CONTEXT * WIDTH, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, SYMBOLS)]


def init(key):
    keys = jax.random.split(key, len(SIZES) + 1)
    params = {
        "embed": {"embeddings": jax.random.normal(keys[-1], (SYMBOLS, WIDTH))},
        "layer_norm": {"scale": jnp.ones(CONTEXT * WIDTH), "offset": jnp.zeros(CONTEXT * WIDTH)},
    }
    for i, (inputs, outputs) in enumerate(SIZES):
        w = jax.random.truncated_normal(keys[i], -2, 2, (inputs, outputs)) * inputs**-0.5
        params[f"mlp/~/linear_{i}"] = {"w": w, "b": jnp.zeros(outputs)}
    return params


def new_capture(params):
    """Where the layers are; the norm is left to Adam."""
    dense = layers.LayerSpec(layers.dense(), "w", "b")
    kinds = {name: dense for name in params if "linear" in name}
    kinds["embed"] = layers.LayerSpec(layers.Embed(SYMBOLS), "embeddings")
    return layers.explicit(kinds, params, allow_uncovered=["layer_norm"])


def apply(capture, params, tokens):
    def embed(tokens):
        p = params["embed"]
        return capture.apply("embed", p, p["embeddings"][tokens], tokens)

    def linear(name, x):
        p = params[name]
        return capture.apply(name, p, x @ p["w"] + p["b"], x)

    x = embed(tokens).reshape(len(tokens), -1)
    x = jax.nn.standardize(x) * params["layer_norm"]["scale"] + params["layer_norm"]["offset"]
    for i in range(len(SIZES)):
        x = linear(f"mlp/~/linear_{i}", x if i == 0 else jax.nn.relu(x))
    return x


def data(seed):
    """The sum of three symbols, modulo their number."""
    random = np.random.default_rng(seed)
    while True:
        tokens = random.integers(SYMBOLS // 2, size=(BATCH, CONTEXT))
        yield tokens, tokens.sum(-1) % SYMBOLS


def train(tx, steps=STEPS, seed=0):
    params, batches, losses = init(jax.random.key(seed)), data(seed), []
    capture = new_capture(params)
    tx = optax.with_extra_args_support(tx(capture.layers) if callable(tx) else tx)  # AdamW ignores the factors
    state = tx.init(params)

    def loss(logits, tokens, y):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    fisher = layers.sampled(layers.categorical())
    value_grad_factors = layers.value_grad_factors(
        lambda params, tokens, y: apply(capture, params, tokens), loss, capture, fisher=fisher
    )

    @jax.jit
    def step(params, state, tokens, y, key):
        value, grads, factors = value_grad_factors(params, tokens, y, key=key)
        updates, state = tx.update(grads, state, params, factors=factors)
        return optax.apply_updates(params, updates), state, value

    for key in jax.random.split(jax.random.key(seed), steps):
        params, state, value = step(params, state, *next(batches), key)
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes
    print(train(lambda found: precond.kfac(KFAC_RATE, found, **KFAC_OPTIONS))[-1])

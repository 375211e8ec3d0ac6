"""Fine-tuning with LoRA: the network is frozen, and pairs of narrow matrices beside its layers are trained.

`optax.partition` gives the pairs to the optimizer and the rest to nobody. `lora_b` begins at zero, so that the first
gradient of `lora_a` is zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond

RATE, STEPS = 3e-3, 200
OPTIONS = {}
INPUTS, WIDTH, CLASSES, RANK, BATCH = 32, 64, 16, 4, 64
SIZES = [(INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)]


def init(key):
    """A network that is frozen, and pairs that do not change it yet."""
    params = {}
    for i, (inputs, outputs) in enumerate(SIZES):
        dense, narrow = jax.random.split(jax.random.fold_in(key, i))
        params[f"dense_{i}"] = {
            "kernel": jax.random.normal(dense, (inputs, outputs)) * inputs**-0.5,
            "bias": jnp.zeros(outputs),
            "lora_a": jax.random.normal(narrow, (inputs, RANK)) * inputs**-0.5,
            "lora_b": jnp.zeros((RANK, outputs)),
        }
    return params


def apply(params, x):
    for i in range(len(SIZES)):
        p = params[f"dense_{i}"]
        x = (x if i == 0 else jnp.tanh(x)) @ p["kernel"] + x @ p["lora_a"] @ p["lora_b"] + p["bias"]
    return x


def labels(params):
    """Say which optimizer trains which parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "trained" if path[-1].key.startswith("lora") else "frozen", params
    )


def teacher(params, key):
    """The same network, with other layers: each is away from the frozen one by a matrix of low rank."""
    for i, name in enumerate(params):
        a, b = jax.random.split(jax.random.fold_in(key, i))
        p = params[name]
        shapes = p["lora_a"].shape, p["lora_b"].shape
        moved = jax.random.normal(a, shapes[0]) @ jax.random.normal(b, shapes[1])
        params = params | {name: p | {"kernel": p["kernel"] + 0.5 * moved * len(p["kernel"]) ** -0.5}}
    return params


def train(tx, steps=STEPS, seed=0):
    params = init(jax.random.key(seed))
    target, random, losses = teacher(params, jax.random.key(seed + 1)), np.random.default_rng(seed), []
    tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
    state = tx.init(params)

    @jax.jit
    def step(params, state, x):
        def loss(params):
            wanted = jax.nn.softmax(apply(target, x))
            return optax.losses.kl_divergence(jax.nn.log_softmax(apply(params, x)), wanted).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(steps):
        params, state, value = step(params, state, random.standard_normal((BATCH, INPUTS)).astype(np.float32))
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

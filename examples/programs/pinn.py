"""A physics-informed network: the loss has second derivatives of the network by its input.

It solves u'' = f on [0, 1] with u = 0 at both ends. `precond.kfac` does not fit here: its factors see the outputs of a
layer, not the derivatives of the outputs by the network's input. Shampoo and SOAP see gradients alone.
"""

import itertools

import jax
import jax.numpy as jnp
import optax

import precond

RATE, STEPS = 1e-3, 400
OPTIONS = {}
SIZES, POINTS = (1, 32, 32, 32, 1), 64


def init(key, sizes=SIZES):
    params = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (inputs, outputs)) * inputs**-0.5
        params.append({"kernel": kernel, "bias": jnp.zeros(outputs)})
    return params


def u(params, x):
    """The network, of one number."""
    h = 2 * x[None] - 1
    for i, layer in enumerate(params):
        h = (h if i == 0 else jnp.tanh(h)) @ layer["kernel"] + layer["bias"]
    return h[0]


def solution(x):
    return jnp.sin(jnp.pi * x) + 0.2 * jnp.sin(3 * jnp.pi * x)


def second_derivative(function, x):
    return jax.grad(jax.grad(function))(x)


def loss(params, x):
    def residual(x):
        return second_derivative(lambda x: u(params, x), x) - second_derivative(solution, x)

    ends = u(params, jnp.zeros(())) ** 2 + u(params, jnp.ones(())) ** 2
    return jnp.mean(jax.vmap(residual)(x) ** 2) / 100 + ends


def train(tx, steps=STEPS, seed=0):
    first, key = jax.random.split(jax.random.key(seed))
    params = init(first)

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, jax.random.uniform(key, (POINTS,)))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, tx.init(params)), keys)[1]

    return run(params, jax.random.split(key, steps)).tolist()


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

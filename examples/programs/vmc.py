"""Variational Monte Carlo with complex numbers: the ground state of a ring of spins.

log psi is complex. The network's kernels are real, and preconditioned; the weights between pairs of spins are complex,
and get Adam's update. JAX's gradient by a complex number is the conjugate of the direction of steepest ascent, so it is
conjugated. What is returned is the energy above that of the ground state.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond

RATE, STEPS = 3e-3, 300
OPTIONS = {}
SPINS, HIDDEN, SAMPLES, FIELD, ANGLE = 8, 16, 256, 1.0, 0.7
STATES = 1.0 - 2.0 * ((np.arange(2**SPINS)[:, None] >> np.arange(SPINS)) & 1).astype(np.float32)


def init(key):
    first, second, third = jax.random.split(key, 3)
    return {
        "hidden": {"kernel": jax.random.normal(first, (SPINS, HIDDEN)) * SPINS**-0.5, "bias": jnp.zeros(HIDDEN)},
        "head": {"kernel": 0.1 * jax.random.normal(second, (HIDDEN, 2)), "bias": jnp.zeros(2)},
        "pairs": 0.01 * jax.random.normal(third, (SPINS, SPINS), jnp.complex64),
    }


def log_psi(params, s):
    """Of states `[batch, spins]`."""
    h = jax.nn.gelu(s @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    size, phase = jnp.moveaxis(h @ params["head"]["kernel"] + params["head"]["bias"], -1, 0)
    return size + 1j * phase + jnp.einsum("bi,ij,bj->b", s, params["pairs"], s)


def flips(s):
    """What H adds for each spin that is turned round: a field between x and y makes the ground state complex."""
    return -FIELD * (jnp.cos(ANGLE) + 1j * s * jnp.sin(ANGLE))


def local_energy(params, s):
    there = log_psi(params, s)
    turned = s[:, None] * (1 - 2 * jnp.eye(SPINS))
    ratios = jnp.exp(log_psi(params, turned.reshape(-1, SPINS)).reshape(len(s), SPINS) - there[:, None])
    return -jnp.sum(s * jnp.roll(s, 1, axis=1), axis=1) + jnp.sum(flips(s) * ratios, axis=1)


def ground_energy():
    h = np.diag(-np.sum(STATES * np.roll(STATES, 1, axis=1), axis=1)).astype(complex)
    here = np.arange(2**SPINS)
    for i in range(SPINS):
        h[here, here ^ (1 << i)] += np.asarray(flips(STATES))[:, i]
    return float(np.linalg.eigvalsh(h)[0])


def train(tx, steps=STEPS, seed=0):
    params, states, lowest = init(jax.random.key(seed)), jnp.asarray(STATES), ground_energy()
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        drawn = jax.random.categorical(key, 2 * log_psi(params, states).real, shape=(SAMPLES,))
        s = states[drawn]
        energies = local_energy(params, s)
        mean = energies.mean()

        def surrogate(params):
            """Its gradient is that of the energy."""
            return 2 * jnp.mean(jnp.conj(energies - mean) * log_psi(params, s)).real

        grads = jax.tree.map(jnp.conj, jax.grad(surrogate)(params))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, mean.real

    losses = []
    for key in jax.random.split(jax.random.key(seed + 1), steps):
        params, state, energy = step(params, state, key)
        losses.append(float(energy) - lowest)
    return losses


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes

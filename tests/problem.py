"""Fixed parameters and gradients that trajectories run on, and how to run them."""

from importlib.metadata import version

import jax
import numpy as np
import optax


def gradients(shapes, steps, seed=0):
    """Correlated, badly scaled random gradients, a dictionary a step."""
    rng = np.random.default_rng(seed)
    mix = {k: [rng.standard_normal((d, d)) for d in shape] for k, shape in shapes.items()}

    def one(name, shape):
        x = rng.standard_normal(shape)
        for axis, matrix in enumerate(mix[name]):
            x = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
        return np.asarray(x * 10 ** rng.uniform(-2, 0))

    return [{k: one(k, shape) for k, shape in shapes.items()} for _ in range(steps)]


AS_USERS = {"xla_cpu_use_fusion_emitters": True} if version("jaxlib").startswith("0.10.") else {}
"""Compiler options for a program as users get it; the other tests take an older code generator (tests/conftest.py)."""


def trajectory(tx, params, grads, compiler_options=None):
    """The parameters after every update, by name `[steps, *shape]`."""
    params = jax.tree.map(jax.numpy.asarray, params)
    state, step = jax.jit(tx.init)(params), jax.jit(tx.update, compiler_options=compiler_options)
    path = []
    for g in grads:
        updates, state = step({k: jax.numpy.asarray(g[k]) for k in params}, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return {k: np.stack([np.asarray(p[k]) for p in path]) for k in params}


def distance(path, reference, start):
    """The largest difference of two trajectories of one parameter, in units of its largest move."""
    return np.abs(path - reference).max() / np.abs(reference - start).max()

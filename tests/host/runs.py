"""Runs whose roots are refreshed on the host, and pools of threads that misbehave."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond
from precond.engine import KroneckerState
from tests import problem

N, STEPS = 3, 14
SHAPES = {"one": (4, 4), "two": (4, 4), "long": (8, 4), "bias": (5,)}  # one stack of four blocks


def params_of(dtype=np.float64):
    return {k: jnp.asarray(np.random.default_rng(3).standard_normal(s), dtype) for k, s in SHAPES.items()}


def gradients(steps=STEPS, dtype=np.float64):
    return [{k: jnp.asarray(x, dtype) for k, x in g.items()} for g in problem.gradients(SHAPES, steps)]


@functools.cache
def shampoo(period=N, **arguments):
    given = {"learning_rate": 0.1, "block_size": 4, "damping": 1e-3, "refresh": precond.on_host(period)} | arguments
    return precond.shampoo(**given)


@functools.cache
def stepper(tx):
    """A jitted update that is given its state and its parameters for good; one for each optimizer."""

    def step(params, state, g, **extra):
        updates, state = tx.update(g, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def run(tx, grads, refresh, start=None, step=None):
    """Parameters after every step, and the last state."""
    params = params_of() if start is None else start[0]
    state = tx.init(params) if start is None else start[1]
    step, path = stepper(tx) if step is None else step, []
    for g in grads:
        params, state = step(params, refresh(state), g)
        path.append(jax.tree.map(np.array, params))
    return path, state


def whole(tx, grads, pool=1, **arguments):
    """`run` with a refresh of its own."""
    with precond.host_refresh(tx, params_of(), workers=pool, **arguments) as refresh:
        return run(tx, grads, refresh)


def engines(state):
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, KroneckerState))
    return [x for x in nodes if isinstance(x, KroneckerState)]


def assert_equal(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Slow(ThreadPoolExecutor):
    """Every task takes a while longer."""

    def submit(self, fn, /, *args, **kwargs):
        def late():
            time.sleep(0.01)
            return fn(*args, **kwargs)

        return super().submit(late)


class Gated(ThreadPoolExecutor):
    """No task goes on before the gate is opened."""

    def __init__(self):
        super().__init__(1)
        self.gate, self.asked = threading.Event(), 0

    def submit(self, fn, /, *args, **kwargs):
        self.asked += 1

        def waiting():
            assert self.gate.wait(60)
            return fn(*args, **kwargs)

        return super().submit(waiting)


class Failing(ThreadPoolExecutor):
    """The tasks of these numbers fail."""

    def __init__(self, numbers):
        super().__init__(1)
        self.numbers, self.asked = numbers, 0

    def submit(self, fn, /, *args, **kwargs):
        number, self.asked = self.asked, self.asked + 1

        def perhaps():
            if number in self.numbers:
                raise MemoryError("no room")
            return fn(*args, **kwargs)

        return super().submit(perhaps)

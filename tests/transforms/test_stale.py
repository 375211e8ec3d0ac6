"""K-FAC with inverses that are many steps old, on the example's autoencoder, made small."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import precond
from precond import layers

pytest.importorskip("matplotlib")
pytest.importorskip("flax")

EXAMPLE = Path(__file__).parents[2] / "examples" / "autoencoder_kfac.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("autoencoder_kfac", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_with_inverses_of_up_to_twenty_steps_ago_the_loss_falls_as_with_fresh_ones(example):
    """Ba et al. refresh theirs every 16 to 30 steps, beside the training."""
    task, steps = example.Task.of(8, (30, 15, 3), 500), 200
    f = layers.value_grad_factors(
        lambda params, x: task.capture.apply({"params": params}, x),
        example.loss,
        task.capture,
        fisher=layers.sampled(layers.bernoulli()),
    )

    def losses(refresh):
        tx = precond.kfac(1.0, task.capture.layers, damping=1e-2, bound=0.1, refresh=refresh)

        def step(carry, key):
            params, state = carry
            x = task.data[jax.random.randint(key, (128,), 0, len(task.data))]
            _, grads, factors = f(params, x, key=key)
            updates, state = tx.update(grads, state, params, factors=factors)
            params = optax.apply_updates(params, updates)
            return (params, state), example.loss(task.model.apply({"params": params}, task.data), task.data)

        params = task.start(0)
        keys = jax.random.split(jax.random.key(1), steps)
        return np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, keys))((params, tx.init(params)))[1])

    fresh, stale = losses(precond.every(1)), losses(precond.every(20, delay=1))
    never = losses(precond.every(10**6, delay=1))
    floor = fresh[-1]
    # What is left to gain when the fresh run ends is little against what both have gained; without refresh it is much.
    assert stale[-1] - floor < 0.1 * (fresh[0] - floor)
    assert never[-1] - floor > 2 * max(stale[-1] - floor, 0)

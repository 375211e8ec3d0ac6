"""K-FAC with inverses and statistics that are many steps old, on the example's autoencoder, made small."""

import collections
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
STEPS = 200


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("autoencoder_kfac", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def losses(example):
    """A run: the loss of all images after each step."""
    task = example.Task.of(8, (30, 15, 3), 500)

    def forward(params, x):
        return task.capture.apply({"params": params}, x)

    fisher = layers.sampled(layers.bernoulli())
    factors_of = jax.jit(layers.factors_alone(forward, task.capture, fisher=fisher))

    def run(refresh, lag=0, every=1):
        """With factors of so many steps ago, captured every so many steps, each in a call of its own."""
        tx = precond.kfac(1.0, task.capture.layers, damping=1e-2, bound=0.1, refresh=refresh)

        @jax.jit
        def step(params, state, x, factors):
            grads = jax.grad(lambda params: example.loss(task.model.apply({"params": params}, x), x))(params)
            updates, state = tx.update(grads, state, params, factors=factors)
            params = optax.apply_updates(params, updates)
            return params, state, example.loss(task.model.apply({"params": params}, task.data), task.data)

        params, out, coming = task.start(0), [], collections.deque()
        state, host = tx.init(params), precond.host_refresh(tx, params, workers=1) if refresh.on_host else None
        for i, key in enumerate(jax.random.split(jax.random.key(1), STEPS)):
            x = task.data[jax.random.randint(key, (128,), 0, len(task.data))]
            coming.append(factors_of(params, x, key=key) if i % every == 0 else None)
            factors = coming.popleft() if len(coming) > lag else None
            params, state, value = step(params, state if host is None else host(state), x, factors)
            out.append(float(value))
        if host is not None:
            host.close()
        return np.asarray(out)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"refresh": precond.every(20, delay=1)},
        {"refresh": precond.on_host(20)},
        {"refresh": precond.every(5), "lag": 20, "every": 5},
        {"refresh": precond.on_host(10), "lag": 10, "every": 10},
    ],
    ids=["inverses", "inverses on the host", "statistics", "both"],
)
def test_with_inverses_and_statistics_of_twenty_steps_ago_the_loss_falls_as_with_fresh_ones(losses, how):
    """Ba et al. refresh theirs every 16 to 30 steps, beside the training, with parameters that are slightly old."""
    fresh, stale, never = losses(precond.every(1)), losses(**how), losses(precond.every(10**6, delay=1))
    floor = fresh[-1]
    # What is left to gain when the fresh run ends is little against what both have gained; without refresh it is much.
    assert stale[-1] - floor < 0.1 * (fresh[0] - floor)
    assert never[-1] - floor > 2 * max(stale[-1] - floor, 0)

"""A race of optimizers: the same start, the same batches, step by step in turns, so that noise hits all alike."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from text import SYMBOLS, Text, batches, windows
from tqdm import tqdm
from transformer import Transformer, loss

__all__ = ["BATCH", "LENGTH", "Lane", "circumstances", "race", "schedule"]

BATCH, LENGTH, UNSEEN = 32, 64, 256

Loss = Callable[[Any, jax.Array], jax.Array]


def schedule(peak: float, steps: int) -> optax.Schedule:
    """A linear warm-up over a tenth of the steps, then a cosine down to a tenth of the peak."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, max(steps // 10, 1), max(steps, 2), end_value=peak / 10)


class Lane:
    """One optimizer's training.

    Attributes:
      losses: of the batch of every step, before that step.
      seconds: from the first step to the end of every step: gradients and updates, without compilation.
      evaluated: the number of steps done at every evaluation.
      held_out: the loss on text that training never sees, at every evaluation.
    """

    def __init__(self, tx: optax.GradientTransformation, loss_of: Loss, params: Any, batch: np.ndarray):
        self.tx, self.params, self.state = tx, jax.tree.map(jnp.copy, params), tx.init(params)
        self.losses, self.seconds, self.evaluated, self.held_out = [], [], [], []

        def step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any, jax.Array]:
            value, gradients = jax.value_and_grad(loss_of)(params, batch)
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        self.compiled = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, batch).compile()

    def step(self, batch: np.ndarray) -> None:
        start = time.perf_counter()
        self.params, self.state, value = jax.block_until_ready(self.compiled(self.params, self.state, batch))
        took = time.perf_counter() - start
        self.seconds.append(took + (self.seconds[-1] if self.seconds else 0.0))
        self.losses.append(float(value))

    def state_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.state))

    def update_ms(self, updates: int = 40) -> float:
        """What the optimizer alone takes: the mean of so many updates, a multiple of the refresh period."""
        gradients = jax.tree.map(lambda p: jax.random.normal(jax.random.key(0), p.shape, p.dtype), self.params)
        update = jax.jit(self.tx.update).lower(gradients, self.state, self.params).compile()
        state = jax.block_until_ready(update(gradients, self.state, self.params)[1])
        start = time.perf_counter()
        for _ in range(updates):
            state = jax.block_until_ready(update(gradients, state, self.params)[1])
        return 1e3 * (time.perf_counter() - start) / updates


def circumstances(text: Text, steps: int, seed: int) -> dict[str, Any]:
    """What a result must be quoted with."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("jax", "optax", "flax")}
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    return {"steps": steps, "seed": seed, "sha256": text.sha256, "versions": versions, "device": device}


def standings(lanes: Mapping[Any, Lane]) -> str:
    """The held-out losses, or where there are many the lowest and the highest."""
    losses = {name: lane.held_out[-1] for name, lane in lanes.items()}
    if len(losses) > 5:
        return f"held-out {min(losses.values()):.3f} to {max(losses.values()):.3f}"
    return ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def race(
    optimizers: Mapping[Any, optax.GradientTransformation], text: Text, *, steps: int, seed: int
) -> dict[Any, Lane]:
    """Train the transformer once with each optimizer, from the start and on the batches that `seed` gives."""
    graph, params = nnx.split(Transformer(SYMBOLS, LENGTH, nnx.Rngs(seed)))
    data = batches(text.train, steps, BATCH, LENGTH, seed)
    unseen = windows(text.held_out, np.linspace(0, len(text.held_out) - LENGTH - 1, UNSEEN, dtype=int), LENGTH)

    def loss_of(params: Any, batch: jax.Array) -> jax.Array:
        return loss(nnx.merge(graph, params), batch)

    evaluate = jax.jit(loss_of)
    lanes = {}
    for name, tx in tqdm(optimizers.items(), desc="compiling", leave=False):
        lanes[name] = Lane(tx, loss_of, params, data[0])
    bar = tqdm(data, desc="training", unit="step")
    for done, batch in enumerate(bar, start=1):
        for lane in lanes.values():
            lane.step(batch)
        if done % 20 == 0 or done == steps:
            for lane in lanes.values():
                lane.evaluated.append(done)
                lane.held_out.append(float(evaluate(lane.params, unseen)))
            bar.set_postfix_str(standings(lanes))
    return lanes

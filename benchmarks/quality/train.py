"""One program for each task and optimizer: what is searched, the schedule's length and the seed are its arguments."""

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure
from benchmarks.quality.optimizers import Method
from benchmarks.quality.tasks import Task
from precond import layers

BINS = 40
"""The loss of a full run is kept as so many means, each of an equal number of steps."""


class Trial(NamedTuple):
    """What was trained, and what came out.

    Attributes:
      number: the learning rate, or the damping of K-FAC.
      length: of the schedule, as a part of the task's steps.
      losses: means over the bins; None where the loss was not finite, after which training stops.
      seconds: of a processor, for all steps, without compilation.
      commit: the commit of the library that trained it; empty if it was not written down.
    """

    optimizer: str
    number: float
    seed: int
    length: float
    losses: list[float | None]
    seconds: float
    commit: str = ""


def schedule(count: Any, steps: Any) -> Any:
    """A linear warm-up over a tenth of the steps, then a cosine down to 0."""
    return jnp.minimum((count + 1) / (0.1 * steps), 1) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1)))


class Program:
    """A task's training with one optimizer, compiled."""

    def __init__(self, task: Task, method: Method):
        self.chunk = max(task.steps // BINS, 1)
        found = task.layers() if method.factors else None
        if found is not None:
            factors_of = layers.factors_alone(found.forward, found.capture, fisher=layers.sampled(found.likelihood))

        def tx(number: Any, steps: Any) -> Any:
            made = method.make(number, functools.partial(schedule, steps=steps), found and found.capture.layers)
            return optax.with_extra_args_support(made)

        def step(carry: Any, count: Any, key: Any, number: Any, steps: Any) -> Any:
            params, state = carry
            now, draw = jax.random.split(jax.random.fold_in(key, count))
            batch, extra = task.batch(now), {}
            value, grads = jax.value_and_grad(lambda p: task.loss(task.forward(p, batch), batch))(params)
            if found is not None:  # of a quarter of the batch
                part = jax.tree.map(lambda x: x[::4], batch)
                bases = {"state": state} if method.measured else {}
                extra["factors"] = factors_of(params, part, key=draw, **bases)
            updates, state = tx(number, steps).update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), value

        def start(key: Any) -> Any:
            params = task.init(key)
            return params, tx(1.0, 1.0).init(params)

        def go(carry: Any, first: Any, key: Any, number: Any, steps: Any) -> Any:
            counts = first + jnp.arange(self.chunk)
            carry, values = jax.lax.scan(lambda c, count: step(c, count, key, number, steps), carry, counts)
            return carry, values.mean()

        key = jax.random.key(0)
        self.start = jax.jit(start).lower(key).compile()
        numbers = jnp.int32(0), key, jnp.float32(0), jnp.float32(0)
        self.go = jax.jit(go, donate_argnums=0).lower(jax.eval_shape(start, key), *numbers).compile()

    def run(self, optimizer: str, number: float, seed: int, length: float) -> Trial:
        """Train from the start of this seed."""
        first, key = jax.random.split(jax.random.key(seed))
        bins = round(length * BINS)
        numbers = key, jnp.float32(number), jnp.float32(bins * self.chunk)
        carry = jax.block_until_ready(self.start(first))
        losses, begin = [], time.process_time()
        for i in range(bins):
            carry, value = self.go(carry, jnp.int32(i * self.chunk), *numbers)
            value = float(value)
            losses.append(float(f"{value:.5g}") if math.isfinite(value) else None)
            if losses[-1] is None:
                break
        seconds = round(time.process_time() - begin, 3)
        return Trial(optimizer, number, seed, length, losses, seconds, measure.commit())

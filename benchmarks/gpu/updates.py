"""The update of the small model alone: how long it takes to compile, and to run."""

import time

import jax

from benchmarks import measure
from benchmarks.ahead import models

from . import clock, training

MODEL = "gpt-small"


def rows(names=("optax.adamw", "shampoo"), options=({}, training.CUBLAS), steps=20):
    """One row for each optimizer and each options of the compiler, which compiles one after the other."""
    params = training.start(models.MODELS[MODEL])
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
    for given in options:
        for name in names:
            yield {"model": MODEL, "optimizer": name, "options": given} | _run(name, given, params, grads, steps)


def _run(name, options, params, grads, steps):
    make, _ = training.cases(MODEL)[name]
    tx = make()
    keep = {"state": jax.jit(tx.init)(params)}
    begin = time.perf_counter()
    traced = jax.jit(tx.update, donate_argnums=1).lower(grads, keep["state"], params)
    middle = time.perf_counter()
    program = traced.compile(options)
    end = time.perf_counter()

    def run():
        updates, keep["state"] = program(grads, keep["state"], params)
        return updates

    jax.block_until_ready(run())
    times = [measure.seconds(run) for _ in range(steps)]
    return {
        "trace_s": round(middle - begin, 1),
        "compile_s": round(end - middle, 1),
        "update_ms": measure.summary(times),
        "update_ms_in_a_row": round(clock.in_a_row(run, 2 * steps), 3),
    }

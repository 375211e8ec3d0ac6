"""Many shapes in one model, and many models at once.

    python benchmarks/many.py            writes results/many.json

The first part is the seconds to trace and compile an update of 24 matrices that all differ in shape. The second part
compares factors that are padded to a few sizes for the refresh with factors as they are. The third is the time of a
step of 8 models under `jax.vmap`, by that of one model.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

import precond

SHAPES = [(64 + 16 * i, 48 + 24 * (7 * i % 24)) for i in range(24)]
STEPS, SIDE, ROUNDS = 40, 128, 4
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.adam": lambda: optax.adam(1e-3),
    "precond.shampoo": lambda: precond.shampoo(1e-3),
    "precond.shampoo, all at once": lambda: precond.shampoo(1e-3, refresh=20),
    "precond.soap": lambda: precond.soap(1e-3),
    "precond.kl_shampoo": lambda: precond.kl_shampoo(1e-3),
}


ROOTS = {
    "padded to few sizes": precond.inverse_root(),
    "as they are": precond.inverse_root()._replace(padding=None),
}


def compiled(tx: optax.GradientTransformation, shapes: list[tuple[int, int]]) -> tuple[dict[str, float], Any]:
    """Seconds to trace and lower, and to compile, an update of matrices of many shapes; and the program."""
    params = {f"layer_{i:02}": {"kernel": jnp.ones(shape)} for i, shape in enumerate(shapes)}
    state = jax.eval_shape(tx.init, params)
    start = time.perf_counter()
    lowered = jax.jit(tx.update).lower(params, state, params)
    traced = time.perf_counter()
    program = lowered.compile()
    seconds = {"trace_s": round(traced - start, 1), "compile_s": round(time.perf_counter() - traced, 1)}
    fresh = tx.init(params)
    jax.block_until_ready(program(params, fresh, params))
    return seconds, lambda: program(params, fresh, params)


def fastest(make: Callable[[], optax.GradientTransformation], shapes: list[tuple[int, int]]) -> dict[str, float]:
    """The shortest seconds of several rounds: other work on the machine only adds to them."""
    rounds = [compiled(make(), shapes)[0] for _ in range(ROUNDS)]
    return {what: min(found[what] for found in rounds) for what in rounds[0]}


def padded(shapes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """What padding changes: seconds to compile, and the time of an update that refreshes all roots."""
    found, runs = {}, {}
    for name, root in ROOTS.items():
        engine = precond.scale_by_kronecker(precond.outer_products(), root, refresh=precond.every(1))
        found[name], run = compiled(precond.blocked(engine), shapes)
        runs[name] = run
    for name, times in measure.alternating(runs, 7).items():
        found[name]["update_ms"] = round(1e3 * float(np.median(times)), 1)
    return found


def trained(tx: optax.GradientTransformation, models: int) -> Callable[[], Any]:
    """A run of some steps, of one model or of several at once."""
    params = {"kernel": jnp.ones((SIDE, SIDE))}

    def run(key: jax.Array) -> jax.Array:
        def step(state: optax.OptState, i: jax.Array) -> tuple[optax.OptState, jax.Array]:
            gradient = {"kernel": jax.random.normal(jax.random.fold_in(key, i), (SIDE, SIDE))}
            updates, state = tx.update(gradient, state, params)
            return state, jnp.sum(updates["kernel"])

        return jax.lax.scan(step, tx.init(params), jnp.arange(STEPS))[1]

    keys = jax.random.split(jax.random.key(0), models)
    program, given = (jax.jit(run), keys[0]) if models == 1 else (jax.jit(jax.vmap(run)), keys)
    jax.block_until_ready(program(given))  # compiles
    return lambda: program(given)


def mapped(tx: optax.GradientTransformation) -> dict[str, float]:
    """Milliseconds a step of one model, and how many times as long one of 8 takes."""
    runs = {str(n): trained(tx, n) for n in (1, 8)}
    one, eight = (np.median(times) for times in measure.alternating(runs, 7).values())
    return {"one_ms": round(1e3 * one / STEPS, 3), "eight_to_one": round(eight / one, 2)}


def main() -> None:
    """All optimizers, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of them")
    given = parser.parse_args()
    shapes = {name: fastest(make, SHAPES[: given.shapes]) for name, make in OPTIMIZERS.items()}
    sizes = padded(SHAPES[: given.shapes])
    models = {name: mapped(make()) for name, make in OPTIMIZERS.items()}
    setting = {"shapes": SHAPES[: given.shapes], "side": SIDE, "steps": STEPS, "rounds": ROUNDS}
    measure.save("many", {"setting": setting, "compile": shapes, "sizes": sizes, "vmap": models})


if __name__ == "__main__":
    main()

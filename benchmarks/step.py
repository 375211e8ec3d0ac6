"""Time of one update and bytes of state, against peers and against the floor that the arithmetic sets.

    python benchmarks/step.py            writes results/step.json and docs/images/step.svg
    python benchmarks/step.py --draw     draws the picture again

All optimizers take turns, step by step, in one process; the slowest step against the median is that of a run of each
alone, where no other has just had the caches and the memory. The floor is the multiplications of statistics and
application at the rate at which this machine multiplies stacks of the same blocks, and the eigendecompositions at the
rate at which it does a stack of them alone, spread over the period.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
import peer
import plots
import transformer

import precond

BLOCK, PERIOD = 256, 10
PEERS = ("precondition-opt, eigh", "precondition-opt, newton")


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared, all with the same blocks and refresh period."""
    staggered = precond.every(PERIOD, stagger=True)
    return {
        "optax.adamw": optax.adamw(1e-3),
        "precond.shampoo": precond.shampoo(1e-3, block_size=BLOCK, refresh=PERIOD),
        "precond.shampoo, staggered": precond.shampoo(1e-3, block_size=BLOCK, refresh=staggered),
        "precond.shampoo, delay 1": precond.shampoo(1e-3, block_size=BLOCK, refresh=precond.every(PERIOD, delay=1)),
        "precond.shampoo, staggered, delay 1": precond.shampoo(
            1e-3, block_size=BLOCK, refresh=staggered._replace(delay=1)
        ),
        "precond.kl_shampoo, staggered": precond.kl_shampoo(1e-3, block_size=BLOCK, refresh=staggered),
        "precond.soap, staggered": precond.soap(1e-3, block_size=BLOCK),
        "optax.contrib.muon": optax.contrib.muon(1e-3),
        "precond.muon": precond.muon(1e-3),
        PEERS[0]: peer.google_shampoo(BLOCK, PERIOD, eigh=True),
        PEERS[1]: peer.google_shampoo(BLOCK, PERIOD, eigh=False),
    }


def stepper(tx: optax.GradientTransformation, params: dict) -> tuple[Callable[[], object], int]:
    """A function that does the next update, with the state donated, and the bytes of that state."""
    state = jax.jit(tx.init)(params)
    update = jax.jit(tx.update, donate_argnums=(1,))
    grads = [transformer.gradients(params, seed) for seed in range(3)]
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    keep = {"state": state, "step": 0}

    def step() -> object:
        updates, keep["state"] = update(grads[keep["step"] % len(grads)], keep["state"], params)
        keep["step"] += 1
        return updates, keep["state"]

    jax.block_until_ready(step())  # compiles
    return step, size


def floor(params: dict) -> dict[str, float]:
    """Milliseconds an update cannot be faster than, on average over a period, at this machine's own rates."""
    blocks = sum(x.size for x in jax.tree.leaves(params) if x.ndim == 2) // BLOCK**2
    stack = jax.random.normal(jax.random.key(0), (blocks, BLOCK, BLOCK))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
    factors = jax.jit(lambda x: product(jnp.swapaxes(x, 1, 2)))(stack)
    factors = factors + jnp.swapaxes(factors, 1, 2)
    eigh = jax.jit(jnp.linalg.eigh)
    runs = {"product": lambda: product(stack), "eigh": lambda: eigh(factors)}
    jax.block_until_ready([run() for run in runs.values()])
    times = {name: np.median(t) for name, t in measure.alternating(runs, 5).items()}
    # Per block: two Gram matrices, and a product on either side; two factors to decompose.
    work, roots = 1e3 * times["product"] * 4, 1e3 * 2 * times["eigh"] / PERIOD
    rate = blocks * 2 * BLOCK**3 / times["product"] / 1e9
    return {
        "gflop_per_s": round(rate, 1),
        "eigh_ms_per_matrix": round(1e3 * times["eigh"] / blocks, 2),
        "statistics_and_application_ms": round(work, 1),
        "eigh_ms": round(roots, 1),
        "total_ms": round(work + roots, 1),
    }


def plot(results: dict[str, dict], total: float) -> None:
    """The mean step of each, its refresh on top, and the floor."""
    figure, (axes,) = plots.panels(1, height=4.0)
    names = list(results)[::-1]
    means, medians = ([results[n]["ms"][which] for n in names] for which in ("mean", "median"))
    axes.barh(names, means, color=plots.GRAY, label="mean (with refresh)")
    axes.barh(names, medians, height=0.4, color=plots.BLUE, label="median")
    axes.axvline(total, color=plots.INK, linestyle="--", label="floor of Shampoo's arithmetic")
    axes.set(xlabel="milliseconds an update; less is better")
    plots.plain_log(axes.xaxis)
    figure.legend(loc="outside upper left", ncols=2)
    plots.save(figure, measure.IMAGES / "step.svg")


def main() -> None:
    """All optimizers in turns, over whole periods."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3 * PERIOD)
    parser.add_argument("--draw", action="store_true", help="draw the committed result again")
    given = parser.parse_args()
    if given.draw:
        found = measure.load("step")
        plot(found["results"], found["floor"]["total_ms"])
        return
    params = transformer.parameters(given.layers)
    steps, sizes = {}, {}
    for name, tx in optimizers().items():
        steps[name], sizes[name] = stepper(tx, params)
        print("compiled", name, flush=True)
    bound = floor(params)
    times = measure.alternating(steps, given.steps)
    alone = {name: measure.alternating({name: step}, given.steps)[name] for name, step in steps.items()}
    results = {
        name: {
            "ms": measure.summary(t),
            "ms_alone": measure.summary(alone[name]),
            "state_mb": round(sizes[name] / 1e6, 1),
        }
        for name, t in times.items()
    }
    best = min(results[name]["ms"]["mean"] for name in PEERS)
    peer_size = min(results[name]["state_mb"] for name in PEERS)
    ratios = {
        name: {
            "mean_time_to_best_peer": round(r["ms"]["mean"] / best, 2),
            "state_to_best_peer": round(r["state_mb"] / peer_size, 2),
            "mean_time_to_floor": round(r["ms"]["mean"] / bound["total_ms"], 2),
            "slowest_to_median": round(r["ms_alone"]["max"] / r["ms_alone"]["median"], 2),
        }
        for name, r in results.items()
    }
    setting = {"layers": given.layers, "width": 256, "hidden": 1024, "block_size": BLOCK, "period": PERIOD}
    measure.save("step", {"setting": setting, "floor": bound, "ratios": ratios, "results": results})
    plot(results, bound["total_ms"])


if __name__ == "__main__":
    main()

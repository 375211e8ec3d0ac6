"""The Neumann optimizer against SGD and Nesterov's momentum, at batches of 8 examples to all: steps to a loss.

python examples/neumann_batch_sizes.py

The task is generated: ten classes of 8x8 images, each a few smooth templates, shifted, scaled and noisy. A small
network is trained until its loss on all examples is 0.05. Every optimizer has its learning rate tuned at every batch
size, over the same grid and on other seeds than the five that count.
"""

import argparse
import itertools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from plots import MARKERS, curve, panels, plain_log, save
from tables import read, write
from tqdm import tqdm

import precond

OUTPUT = pathlib.Path(__file__).parent / "output"
EXAMPLES, CLASSES, SIDE, TARGET, EVERY = 1024, 10, 8, 0.05, 5
RATES = tuple(0.005 * 2.0**k for k in range(10))
LIMITS = {8: 2400, 32: 700, 128: 300, 512: 200, EXAMPLES: 200}  # batch size: the most steps
TUNING, COUNTING = (100, 101), (0, 1, 2, 3, 4)

# From learning rate and updates in an epoch to an optimizer. Table 1 of the paper counts warm-up, growth of the
# momentum and resets in epochs; public implementations count them in updates.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "SGD": lambda rate, epoch: optax.sgd(rate),
    "Nesterov": lambda rate, epoch: optax.sgd(rate, 0.9, nesterov=True),
    "Neumann": lambda rate, epoch: precond.neumann(rate, epoch=epoch),
    "Neumann, no push": lambda rate, epoch: precond.neumann(rate, epoch=epoch, repulsion=None),
    "Neumann, no push, times in updates": lambda rate, epoch: precond.neumann(rate, repulsion=None),
}


def images(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """All examples and their classes."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((CLASSES, 3, SIDE // 2 + 1, SIDE // 2 + 1))
    templates = np.kron(coarse, np.ones((2, 2)))  # smooth enough that a shift by one is a small change
    labels = rng.integers(CLASSES, size=EXAMPLES)
    rows = []
    for label in labels:
        dx, dy = rng.integers(3, size=2)
        image = templates[label, rng.integers(3), dx : dx + SIDE, dy : dy + SIDE]
        rows.append(rng.uniform(0.5, 1.5) * image + 0.7 * rng.standard_normal((SIDE, SIDE)))
    return jnp.asarray(np.stack(rows).reshape(EXAMPLES, -1), jnp.float32), jnp.asarray(labels)


def start(key: jax.Array) -> list[dict[str, jax.Array]]:
    sizes = (SIDE * SIDE, 64, 32, CLASSES)
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": jax.random.normal(k, (m, n)) * jnp.sqrt(2 / m), "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def loss(params: list[dict[str, jax.Array]], x: jax.Array, labels: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    logits = x @ params[-1]["kernel"] + params[-1]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def evaluated(state: optax.OptState, params: list[dict[str, jax.Array]]) -> list[dict[str, jax.Array]]:
    """Neumann's is another point than the one at which gradients are taken."""
    try:
        return precond.large_batches.eval_params(state, params)
    except ValueError:
        return params


def steps_to_target(make: Callable[..., optax.GradientTransformation], batch: int, x: jax.Array, y: jax.Array):
    """A function of a learning rate and a seed: the number of steps, or infinity."""
    epoch = EXAMPLES // batch

    def run(rate: jax.Array, seed: jax.Array) -> jax.Array:
        tx, key = make(rate, epoch), jax.random.key(seed)
        params = start(key)
        # Every epoch is a permutation of its own, as a data loader's.
        epochs = jax.random.split(key, -(-LIMITS[batch] // epoch))
        orders = jax.vmap(lambda k: jax.random.permutation(k, EXAMPLES))(epochs)

        def step(carry, count):
            params, state = carry
            chosen = jax.lax.dynamic_slice_in_dim(orders.reshape(-1), count * batch, batch)
            updates, state = tx.update(jax.grad(loss)(params, x[chosen], y[chosen]), state, params)
            return (optax.apply_updates(params, updates), state), None

        def chunk(carry):
            count, params, state, _ = carry
            (params, state), _ = jax.lax.scan(step, (params, state), count + jnp.arange(EVERY))
            return count + EVERY, params, state, loss(evaluated(state, params), x, y)

        def goes_on(carry):
            return (carry[0] < LIMITS[batch]) & ~(carry[-1] <= TARGET)

        count, _, _, value = jax.lax.while_loop(goes_on, chunk, (jnp.int32(0), params, tx.init(params), jnp.inf))
        return jnp.where(value <= TARGET, count, jnp.inf)

    return run


def sweep(name: str, batch: int, x: jax.Array, y: jax.Array) -> list[dict[str, float | str]]:
    """The best learning rate on the seeds for tuning, and its steps on those that count."""
    runs = jax.jit(jax.vmap(steps_to_target(OPTIMIZERS[name], batch, x, y)))
    grid = list(itertools.product(RATES, TUNING))
    found = np.asarray(runs(*map(jnp.asarray, zip(*grid, strict=True)))).reshape(len(RATES), len(TUNING))
    rate = RATES[int(np.argmin(found.mean(axis=1)))]
    steps = np.asarray(runs(jnp.full(len(COUNTING), rate), jnp.asarray(COUNTING)))
    return [
        {"optimizer": name, "batch": batch, "learning_rate": rate, "seed": seed, "steps": float(s)}
        for seed, s in zip(COUNTING, steps, strict=True)
    ]


def median(rows: list[dict], name: str, batch: int) -> tuple[float, float, float]:
    """Of the steps: the median, the lowest and the highest."""
    steps = sorted(row["steps"] for row in rows if row["optimizer"] == name and row["batch"] == batch)
    return steps[len(steps) // 2], steps[0], steps[-1]


def show(rows: list[dict]) -> None:
    batches = sorted({row["batch"] for row in rows})
    print(f"\nsteps to a loss of {TARGET}, median (and learning rate)")
    print(f"{'':38}" + "".join(f"{batch:>16}" for batch in batches))
    for name in OPTIMIZERS:
        rates = {row["batch"]: row["learning_rate"] for row in rows if row["optimizer"] == name}
        cells = [f"{median(rows, name, batch)[0]:.0f} ({rates[batch]:g})" for batch in batches]
        print(f"{name:38}" + "".join(f"{cell:>16}" for cell in cells))


def plot(rows: list[dict], path: pathlib.Path) -> None:
    batches = sorted({row["batch"] for row in rows})
    figure, (axis,) = panels(1, height=4.6)
    for name, marker in zip(OPTIMIZERS, MARKERS, strict=False):
        middle, low, high = np.asarray([median(rows, name, batch) for batch in batches]).T
        curve(axis, batches, middle, name, marker=marker, markersize=5, linewidth=1.4)
        finite = np.isfinite(middle)
        above = np.where(np.isfinite(high), high, middle)[finite]
        axis.fill_between(np.asarray(batches)[finite], low[finite], above, alpha=0.12)
    axis.set(xlabel="batch size", ylabel=f"steps to a training loss of {TARGET}; less is better")
    plain_log(axis.xaxis, ticks=batches)
    plain_log(axis.yaxis)
    figure.legend(loc="outside upper left", ncols=2)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="a folder for the CSV and the plot")
    parser.add_argument("--draw", action="store_true", help="draw the CSV of that folder again, and train nothing")
    options = parser.parse_args()
    if options.draw:
        plot(read(options.output / "neumann_batch_sizes.csv"), options.output / "neumann_batch_sizes.png")
        return
    x, y = images()
    cells = tqdm(list(itertools.product(options.batches, OPTIMIZERS)), unit="cell")
    rows = [row for batch, name in cells for row in sweep(name, batch, x, y)]
    show(rows)
    write(rows, options.output / "neumann_batch_sizes.csv")
    plot(rows, options.output / "neumann_batch_sizes.png")


if __name__ == "__main__":
    main()

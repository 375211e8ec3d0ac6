"""What a run tells of its roots: `precond.metrics` in every step, as CSV and as a plot.

python examples/monitor.py
"""

import argparse
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt
import optax
from flax import nnx
from tables import write
from text import SYMBOLS, batches, standard_library
from tqdm import tqdm
from training import BATCH, LENGTH, schedule
from transformer import Transformer, loss

import precond

matplotlib.use("Agg")


def train(steps: int) -> list[dict[str, float]]:
    """One row a step: the loss, and the metrics of Shampoo's state."""
    graph, params = nnx.split(Transformer(SYMBOLS, LENGTH, rngs=nnx.Rngs(0)))
    tx = precond.shampoo(schedule(0.016, steps), b2=0.95)

    @jax.jit
    def step(params: nnx.State, state: optax.OptState, batch: jax.Array) -> tuple:
        value, gradients = jax.value_and_grad(lambda p: loss(nnx.merge(graph, p), batch))(params)
        updates, state = tx.update(gradients, state, params)
        # A few scalars, computed with the step: they cost next to nothing and need no copy of the state.
        return optax.apply_updates(params, updates), state, {"loss": value} | precond.metrics(state)

    state, rows = tx.init(params), []
    for batch in tqdm(batches(standard_library().train, steps, BATCH, LENGTH, seed=0), unit="step"):
        params, state, row = step(params, state, batch)
        rows.append({name: float(value) for name, value in row.items()})
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for axis, name in zip(axes, ("loss", "roots/residual", "roots/condition"), strict=True):
        axis.plot([row[name] for row in rows])
        axis.set(title=name, xlabel="step", yscale="linear" if name == "loss" else "log")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output", help="a folder")
    options = parser.parse_args()
    rows = train(options.steps)
    write(rows, options.output / "monitor.csv")
    draw(rows, options.output / "monitor.png")


if __name__ == "__main__":
    main()

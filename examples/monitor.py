"""What a run tells of its roots: `precond.metrics` in every step, as CSV and as a plot.

python examples/monitor.py
"""

import argparse
from pathlib import Path

import jax
import optax
from flax import nnx
from plots import BLUE, INK, curve, panels, plain_log, save
from tables import read, write
from text import SYMBOLS, batches, standard_library
from tqdm import tqdm
from training import BATCH, LENGTH, schedule
from transformer import Transformer, loss

import precond

TOLERANCE = 0.5  # the default of `precond.inverse_root`


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
    figure, axes = panels(3, height=2.1, sharex=True)
    for axis, name in zip(axes, ("loss", "roots/residual", "roots/condition"), strict=True):
        curve(axis, range(len(rows)), [row[name] for row in rows], color=BLUE)
        axis.set(title=name)
        if name != "loss":
            plain_log(axis.yaxis)
    axes[1].axhline(TOLERANCE, color=INK, linestyle="--", label="a root above this line is refused")
    axes[1].legend()
    axes[-1].set(xlabel="step")
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output", help="a folder")
    parser.add_argument("--draw", action="store_true", help="draw monitor.csv of that folder again, and train nothing")
    options = parser.parse_args()
    if options.draw:
        draw(read(options.output / "monitor.csv"), options.output / "monitor.png")
        return
    rows = train(options.steps)
    write(rows, options.output / "monitor.csv")
    draw(rows, options.output / "monitor.png")


if __name__ == "__main__":
    main()

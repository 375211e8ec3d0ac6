"""AdamW, Shampoo and SOAP train a small transformer on the source of Python's standard library, side by side.

    python examples/demo.py

Each has the learning rate and the b2 that examples/tune.py found for it; everything else is equal, or the default.
"""

import argparse
import functools
import json
import os
import pathlib
import time
from typing import NamedTuple

# Before JAX: the threads of OpenBLAS wait for each other in a loop, and on a busy machine a refresh takes seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import optax
from plots import BLUE, GRAY, RED, curve, panels, save
from text import Text, standard_library
from training import BATCH, LENGTH, Lane, circumstances, race, schedule

import precond

TUNED = pathlib.Path(__file__).parent / "results" / "tuning.json"
OUTPUT = pathlib.Path(__file__).parent / "output"
BASELINE = "AdamW"
OPTIMIZERS = {
    "AdamW": functools.partial(optax.adamw, b1=0.9, weight_decay=0.1),
    "Shampoo": functools.partial(precond.shampoo, b1=0.9, weight_decay=0.1),
    "SOAP": functools.partial(precond.soap, b1=0.9, weight_decay=0.1),
}
COLORS = {"AdamW": GRAY, "Shampoo": BLUE, "SOAP": RED}


class Curve(NamedTuple):
    """The held-out losses of a run, after so many steps and seconds."""

    steps: list[int]
    seconds: list[float]
    held_out: list[float]

    @classmethod
    def of(cls, lane: Lane) -> "Curve":
        return cls(lane.evaluated, [round(lane.seconds[done - 1], 3) for done in lane.evaluated], lane.held_out)

    def reached(self, target: float) -> tuple[int, float] | None:
        """The steps and seconds after which the loss is at most `target` for the first time."""
        return next((found for *found, value in zip(*self, strict=True) if value <= target), None)


def rows(lanes: dict[str, Lane], best: dict[str, dict[str, float]]) -> list[dict[str, float | str | None]]:
    target = lanes[BASELINE].held_out[-1]
    table = []
    for name, lane in lanes.items():
        steps, seconds = Curve.of(lane).reached(target) or (None, None)
        table.append(
            {
                "optimizer": name,
                "learning_rate": best[name]["learning_rate"],
                "b2": best[name]["b2"],
                "held_out_loss": round(lane.held_out[-1], 4),
                "steps_to_baseline": steps,
                "seconds_to_baseline": seconds and round(seconds, 2),
                "seconds": round(lane.seconds[-1], 2),
                "update_ms": round(lane.update_ms(), 2),
                "state_bytes": lane.state_bytes(),
            }
        )
    return table


def show(table: list[dict[str, float | str | None]]) -> None:
    print(f"\n{'':8}  learning       held-out   to {BASELINE}'s final loss    all steps    update   optimizer's")
    print(f"{'':8}      rate    b2      loss      steps      seconds      seconds        ms    state [MB]")
    for row in table:
        steps, seconds = row["steps_to_baseline"], row["seconds_to_baseline"]
        print(
            f"{row['optimizer']:8}  {row['learning_rate']:8.4f}  {row['b2']:.2f}  {row['held_out_loss']:8.3f}"
            f"  {'never' if steps is None else steps:>9}  {'never' if seconds is None else f'{seconds:.1f}':>11}"
            f"  {row['seconds']:11.1f}  {row['update_ms']:8.2f}  {row['state_bytes'] / 1e6:12.2f}"
        )


def plot(curves: dict[str, Curve], path: pathlib.Path) -> None:
    figure, axes = panels(2, sharey=True)
    target, first = curves[BASELINE].held_out[-1], curves[BASELINE].held_out[0]
    for name, run in curves.items():
        for axis, x in zip(axes, run[:2], strict=True):
            curve(axis, x, run.held_out, name, color=COLORS[name], linewidth=2)
        for axis, x in zip(axes, run.reached(target) or (), strict=False):
            axis.plot(x, target, "o", color=COLORS[name])
            axis.annotate(f"{x:.0f}", (x, target), (0, 6), textcoords="offset points", color=COLORS[name])
    for axis, label in zip(axes, ("steps", "seconds of training, without compilation"), strict=True):
        axis.axhline(target, color=COLORS[BASELINE], linestyle=":", linewidth=1)
        axis.set(xlabel=label, ylabel="held-out loss; less is better")
        if target < 3.0 < first:
            axis.set(ylim=(None, 3.0))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    save(figure, path)


def describe(text: Text, steps: int) -> None:
    print(f"Text: {(len(text.train) + len(text.held_out)) / 1e6:.1f} MB of Python, SHA-256 {text.sha256}")
    print(f"{steps} steps of {BATCH} windows of {LENGTH} bytes; held out: every tenth file\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--draw", action="store_true", help="draw demo.json of that folder again, and train nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the start and the batches; tuning used 1")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="a folder for demo.png and demo.json")
    options = parser.parse_args()
    if options.draw:
        kept = json.loads((options.output / "demo.json").read_text())["curves"]
        plot({name: Curve(**found) for name, found in kept.items()}, options.output / "demo.png")
        return
    begin = time.perf_counter()
    best = json.loads(TUNED.read_text())["best"]
    text = standard_library()
    describe(text, options.steps)
    optimizers = {
        name: make(schedule(best[name]["learning_rate"], options.steps), b2=best[name]["b2"])
        for name, make in OPTIMIZERS.items()
    }
    lanes = race(optimizers, text, steps=options.steps, seed=options.seed)
    table = rows(lanes, best)
    show(table)
    options.output.mkdir(parents=True, exist_ok=True)
    curves = {name: Curve.of(lane) for name, lane in lanes.items()}
    plot(curves, options.output / "demo.png")
    kept = {name: run._asdict() for name, run in curves.items()}
    result = circumstances(text, options.steps, options.seed) | {"table": table, "curves": kept}
    (options.output / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{options.output / 'demo.png'} has the curves; {time.perf_counter() - begin:.0f} seconds in all.")


if __name__ == "__main__":
    main()

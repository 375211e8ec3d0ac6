"""The same small search for every optimizer: five learning rates times three values of b2, at the demo's length.

    python examples/tune.py

Writes examples/output/tuning.json. The demo takes its numbers from examples/results/tuning.json, which `--output
examples/results` renews. The search trains on another seed than the demo, so that nobody is tuned to the batches of
the race.
"""

import argparse
import itertools
import json
import pathlib
from typing import Any

from demo import OPTIMIZERS, OUTPUT
from text import standard_library
from training import circumstances, race, schedule

RATES = (0.004, 0.008, 0.016, 0.032, 0.064)
B2 = (0.95, 0.99, 0.999)


def search(name: str, steps: int, seed: int, text: Any) -> list[dict[str, Any]]:
    found = []
    for rate, b2 in itertools.product(RATES, B2):
        print(f"{name}, learning rate {rate}, b2 {b2}")
        lane = race({name: OPTIMIZERS[name](schedule(rate, steps), b2=b2)}, text, steps=steps, seed=seed)[name]
        found.append({"optimizer": name, "learning_rate": rate, "b2": b2, "held_out_loss": round(lane.held_out[-1], 4)})
    return found


def show(trials: list[dict[str, Any]]) -> None:
    print("\nHeld-out loss\n" + " " * 18 + "".join(f"{rate:>9}" for rate in RATES))
    for name, b2 in itertools.product(OPTIMIZERS, B2):
        losses = [t["held_out_loss"] for t in trials if (t["optimizer"], t["b2"]) == (name, b2)]
        print(f"{name:8} b2 {b2:<6}" + "".join(f"{loss:9.3f}" for loss in losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="a folder for tuning.json")
    options = parser.parse_args()
    text = standard_library()
    trials = [trial for name in OPTIMIZERS for trial in search(name, options.steps, options.seed, text)]
    show(trials)
    best = {}
    for trial in sorted(trials, key=lambda trial: trial["held_out_loss"]):
        best.setdefault(trial["optimizer"], trial)
    for name, trial in best.items():
        inside = "inside" if RATES[0] < trial["learning_rate"] < RATES[-1] else "AT THE EDGE of"
        print(f"{name}: {trial['learning_rate']} with b2 {trial['b2']}, {inside} the grid")
    options.output.mkdir(parents=True, exist_ok=True)
    result = circumstances(text, options.steps, options.seed) | {"best": best, "trials": trials}
    (options.output / "tuning.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

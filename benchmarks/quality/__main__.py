"""Train every task with every optimizer, and keep each trial.

    make quality                       what is missing, into results/quality/*.json; it may be stopped and goes on
    python -m benchmarks.quality --tasks characters --seeds 5 --minutes 9
    python -m benchmarks.quality --quick     every task for a few steps; nothing is kept unless --output says where
    python -m benchmarks.quality --draw      docs/images/quality.svg, and the tables of docs/benchmarks.md

Every optimizer has the same six draws of its number, log-uniform over two decades around its own middle, with seed 0.
A shorter schedule has two more trials, of the best and of the next larger number. The best for each length is then
trained with other seeds. A smaller state is trained at the best numbers of the larger one, too.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.quality import reading
from benchmarks.quality.optimizers import METHODS, Method
from benchmarks.quality.tasks import TASKS, Task
from benchmarks.quality.train import Program, Trial

RESULTS = measure.RESULTS / "quality"
DRAWS, DECADES, LENGTHS = 6, 2.0, (1.0, 0.6)


def draws() -> list[float]:
    """Factors of the middle: one in each of six equal parts of the range of exponents, in random order."""
    rng = np.random.default_rng(16)
    parts = (rng.permutation(DRAWS) + rng.uniform(size=DRAWS)) / DRAWS
    return [float(x) for x in 10 ** (DECADES * (parts - 0.5))]


def wanted(name: str, method: Method, middle: float, trials: list[Trial], seeds: int) -> list[tuple]:
    """What is to be trained, as far as is known: the search, shorter schedules near its best, and other seeds."""
    numbers = [float(f"{middle * x:.3g}") for x in draws()]
    done = {trial[:4] for trial in trials}
    more = [] if method.documented is None else [method.documented]
    found = [(name, number, reading.SEARCH_SEED, 1.0) for number in numbers + more]
    if done.issuperset(found):
        best = reading.chosen(name, trials, 1.0)
        near = sorted(number for number in numbers if number >= best)[:2]
        found += [(name, number, reading.SEARCH_SEED, length) for length in LENGTHS[1:] for number in near]
    if done.issuperset(found):
        best = {length: reading.chosen(name, trials, length) for length in LENGTHS}
        found += [(name, best[length], seed, length) for seed in range(1, seeds + 1) for length in LENGTHS]
        larger = {length: method.larger and reading.chosen(method.larger, trials, length) for length in LENGTHS}
        numbers = {length: number for length, number in larger.items() if number not in (None, best[length])}
        found += [(name, number, seed, length) for seed in range(1, seeds + 1) for length, number in numbers.items()]
    return found


def load(path: Path, size: dict) -> list[Trial]:
    """The trials that are kept; those of another size are not to be mixed with new ones."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    if kept["size"] != json.loads(json.dumps(size)):  # a tuple comes back as a list
        raise SystemExit(f"{path} was trained with {kept['size']}, and the task has {size} now: remove the file.")
    return [Trial(**row) for row in kept["trials"]]


def save(path: Path, size: dict, trials: list[Trial]) -> None:
    """Rewrite the whole, through a file beside it, so that no stop leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(trial._asdict()) for trial in trials)
    head = json.dumps({"machine": measure.machine(), "size": size}, indent=1)[:-2]
    beside = path.with_suffix(".new")
    beside.write_text(f'{head},\n "trials": [\n{rows}\n]}}\n')
    beside.replace(path)


def train(path: Path, size: dict, task: Task, name: str, seeds: int, until: float) -> None:
    """All that is missing of one optimizer, as long as there is time."""
    method, program = METHODS[name], None
    while time.monotonic() < until:
        trials = load(path, size)
        done = {trial[:4] for trial in trials}
        missing = [what for what in wanted(name, method, method.middle(task), trials, seeds) if what not in done]
        if not missing:
            return
        program = program or Program(task, method)
        trial = program.run(*missing[0])
        print(
            f"{path.stem}: {name} {trial.number:g}, seed {trial.seed}, {trial.length}: "
            f"{reading.final(trial):.4g} in {trial.seconds:.1f} s",
            flush=True,
        )
        save(path, size, [*trials, trial])


def fits(task_name: str, task: Task, method: Method) -> bool:
    return task_name in (method.only or TASKS) and (task.layers is not None or not method.factors)


def quick(tasks: list[str], output: Path) -> None:
    """Every task, small, for a few steps: with AdamW, but for two that are compiled fast."""
    others = {"factorisation": "kfac", "quadratic": "shampoo"}
    for task_name in tasks:
        size, name = TASKS[task_name].quick, others.get(task_name, "adamw")
        trial = Program(TASKS[task_name].make(**size), METHODS[name]).run(name, 3e-3, 0, 1.0)
        save(output / f"{task_name}.json", size, [trial])
        print(f"{task_name}: {name} {reading.final(trial):.4g}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--optimizers", nargs="*", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, help="of the best number of each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after the trial in which they end")
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args(arguments)
    if given.draw:
        from benchmarks.quality import drawing

        drawing.draw(given.output, given.tasks)
        return
    if given.quick:
        quick(given.tasks, Path(tempfile.mkdtemp()) if given.output == RESULTS else given.output)
        return
    until = time.monotonic() + 60 * given.minutes
    for task_name in given.tasks:
        size = TASKS[task_name].gpu if given.size == "gpu" else {}
        folder = given.output / "gpu" if given.size == "gpu" else given.output
        if time.monotonic() < until:
            task = TASKS[task_name].make(**size)
            for name in given.optimizers:
                if fits(task_name, task, METHODS[name]):
                    train(folder / f"{task_name}.json", size | {"steps": task.steps}, task, name, given.seeds, until)


if __name__ == "__main__":
    main()

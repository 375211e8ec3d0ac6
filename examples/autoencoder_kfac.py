"""K-FAC, EK-FAC and Adam train a deep autoencoder on CURVES, side by side: images of random Bezier curves.

    python examples/autoencoder_kfac.py          # 16 by 16 images, four minutes on 2 cores
    python examples/autoencoder_kfac.py --full   # 28 by 28 images, the network of Hinton and Salakhutdinov (2006)
    python examples/autoencoder_kfac.py --only EK-FAC   # once all have run: the others' rows stay as they are

Each method has five trials on a seed of its own, to tune it; then all start from the same point on the same batches,
for five more seeds. The target is Adam's loss after 1000 steps. The loss is that of the first 1000 images, every ten
steps, with the clock stopped. The methods take turns, step by step, so that what else the machine does falls on all.
Then batches of 256 to 2048, to the target of the first: Adam with two learning rates, the others as they are.
Written: examples/output/autoencoder_kfac.json and .svg.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from plots import BLUE, GRAY, RED, curve, panels, plain_log, save

import precond
from precond import layers
from precond.layers import linen

OUTPUT = pathlib.Path(__file__).parent / "output"
SMALL = (16, (120, 60, 30, 15, 6))
FULL = (28, (400, 200, 100, 50, 25, 6))
BATCHES, EVERY, PERIOD, SEED = (256, 512, 1024, 2048), 10, 5, 100
GRID = ((1e-3, 0.1), (3e-3, 0.1), (1e-2, 0.1), (3e-2, 0.1), (1e-2, 0.3))
TRIALS = {  # five each; EK-FAC's damping is that of the whole matrix, K-FAC's is split over its factors
    "Adam": [{"rate": rate} for rate in (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)],
    "K-FAC": [{"damping": damping, "bound": bound} for damping, bound in GRID],
    "EK-FAC": [{"damping": damping / 100, "bound": bound} for damping, bound in GRID],
}

# Sigmoids need wider weights than Flax's default, or the network starts on a plateau that no method leaves soon.
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(16.0, "fan_in", "normal"))


class Autoencoder(nn.Module):
    """Sigmoid layers down to a linear code, and up again to logits."""

    widths: tuple[int, ...]
    pixels: int

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.sigmoid(Dense(width)(x))
        x = Dense(self.widths[-1])(x)
        for width in reversed(self.widths[:-1]):
            x = nn.sigmoid(Dense(width)(x))
        return Dense(self.pixels)(x)


def curves(count: int, side: int, seed: int) -> np.ndarray:
    """Images `[count, side * side]` of cubic Bezier curves through four random points, with soft edges."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 2 * side)[:, None]
    basis = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    grid = np.arange(side)
    images = np.empty((count, side * side), np.float32)
    for i in range(count):
        points = basis @ rng.uniform(0.1, 0.9, (4, 2)) * side
        near = np.exp(-((grid[None] - points[:, :1]) ** 2)), np.exp(-((grid[None] - points[:, 1:]) ** 2))
        images[i] = np.max(near[0][:, :, None] * near[1][:, None, :], axis=0).ravel()
    return images


def loss(logits: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x), axis=1))


class Task(NamedTuple):
    """A model and its data."""

    model: Autoencoder
    data: jax.Array
    evaluate: Callable[[Any], jax.Array]
    capture: layers.Capture

    @classmethod
    def of(cls, side: int, widths: tuple[int, ...], images: int) -> "Task":
        model, data = Autoencoder(widths, side * side), jnp.asarray(curves(images, side, seed=0))
        shapes = jax.eval_shape(model.init, jax.random.key(0), data[:1])
        capture = linen.capture(model, jax.tree.map(lambda s: jnp.ones(s.shape), shapes), data[:8])
        return cls(model, data, jax.jit(lambda p: loss(model.apply({"params": p}, data[:1000]), data[:1000])), capture)

    def start(self, seed: int) -> Any:
        return self.model.init(jax.random.key(seed), self.data[:1])["params"]


class Method(NamedTuple):
    """An optimizer; compiled once for all choices of its numbers, which are arguments."""

    init: Callable[[Any], Any]
    update: Callable[..., Any]
    measure: Callable[..., Any]


def method(name: str, task: Task) -> Method:
    def tx(numbers: dict[str, Any]) -> Any:
        if name == "Adam":
            return optax.with_extra_args_support(optax.adam(numbers["rate"]))
        chosen = {key: numbers[key] for key in ("damping", "bound")}
        if name == "K-FAC":
            return precond.kfac(1.0, task.capture.layers, refresh=precond.every(PERIOD), **chosen)
        refresh = precond.every(PERIOD, delay=1, warmup=1)
        return precond.ekfac(1.0, task.capture.layers, refresh=refresh, **chosen)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return task.capture.apply({"params": params}, x)

    fisher = layers.sampled(layers.bernoulli())
    with_factors = layers.value_grad_factors(forward, loss, task.capture, fisher=fisher)

    @functools.partial(jax.jit, static_argnames="batch")
    def measure(params: Any, state: Any, key: jax.Array, *, batch: int) -> Any:
        pick, draw = jax.random.split(key)
        x = task.data[jax.random.randint(pick, (batch,), 0, len(task.data))]
        if name == "Adam":
            return jax.grad(lambda p: loss(forward(p, x), x))(params), None
        return with_factors(params, x, key=draw, state=state if name == "EK-FAC" else None)[1:]

    @functools.partial(jax.jit, donate_argnums=0)
    def update(carry: Any, grads: Any, factors: Any, numbers: dict[str, Any]) -> Any:
        params, state = carry
        updates, state = tx(numbers).update(grads, state, params, factors=factors)
        return optax.apply_updates(params, updates), state

    ones = {"rate": 1.0, "damping": 1.0, "bound": 1.0}
    return Method(jax.jit(lambda params: tx(ones).init(params)), update, measure)


class Lane:
    """One method on its way: losses every ten steps, and seconds of each step."""

    def __init__(self, name: str, how: Method, task: Task, batch: int, seed: int, choice: dict[str, float]):
        self.name, self.how, self.task, self.batch = name, how, task, batch
        self.keys, params = jax.random.key(1000 + seed), task.start(seed)
        self.numbers = {key: jnp.float32(x) for key, x in choice.items()}
        self.losses, self.seconds = [float(task.evaluate(params))], []
        self.carry = (params, how.init(params))

    def go(self, i: int) -> None:
        start = time.perf_counter()
        key = jax.random.fold_in(self.keys, i)
        got = self.how.measure(*self.carry, key, batch=self.batch)
        self.carry = jax.block_until_ready(self.how.update(self.carry, *got, self.numbers))
        self.seconds.append(time.perf_counter() - start)
        if (i + 1) % EVERY == 0:
            self.losses.append(float(self.task.evaluate(self.carry[0])))

    def per_step(self) -> float:
        """Seconds: the median over the steps of one phase of the refresh, in the mean over phases."""
        later = self.seconds[PERIOD:]  # without compilation
        return float(np.mean([np.median(later[phase::PERIOD]) for phase in range(PERIOD)]))

    def reached(self, target: float) -> int | None:
        below = np.flatnonzero(np.asarray(self.losses) <= target)
        return int(below[0]) * EVERY if len(below) else None


def tune(name: str, how: Method, task: Task, steps: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The choice with the least loss in the end, and all of them."""
    found = []
    for choice in TRIALS[name]:
        lane = Lane(name, how, task, BATCHES[0], SEED, choice)
        for i in range(steps):
            lane.go(i)
        found.append({"choice": choice, "loss": round(lane.losses[-1], 3)})
        print(f"{name} {choice}: {lane.losses[-1]:.3f} after {steps} steps, {1e3 * lane.per_step():.1f} ms each")
    return min(found, key=lambda trial: np.nan_to_num(trial["loss"], nan=np.inf))["choice"], found


def race(
    methods: dict[str, Method], task: Task, best: dict[str, Any], steps: int, seed: int, row: dict[str, Any]
) -> dict[str, Any]:
    """A row with these methods in it; Adam's is in what is given if it is not one of them."""
    lanes = {name: Lane(name, how, task, BATCHES[0], seed, best[name]) for name, how in methods.items()}
    for i in range(steps):
        for name, lane in lanes.items():
            if name == "Adam" or i < 2 * steps // 5:
                lane.go(i)
    row = dict(row)
    target = lanes["Adam"].losses[-1] if "Adam" in lanes else row["Adam"]["losses"][-1]
    for name, lane in lanes.items():
        there, each = (steps if name == "Adam" else lane.reached(target)), lane.per_step()
        seconds = None if there is None else round(there * each, 3)
        row[name] = {"steps": there, "seconds": seconds, "ms": round(1e3 * each, 2), "losses": np.round(lane.losses, 3)}
        row[name]["losses"] = row[name]["losses"].tolist()
        print(f"seed {seed}, {name}: {target:.3f} after {there} steps of {1e3 * each:.1f} ms: {seconds} s")
    return row


def scaling(
    methods: dict[str, Method], task: Task, best: dict[str, Any], target: float, steps: int
) -> list[dict[str, Any]]:
    """Steps to the target for every batch size."""
    rows = []
    for batch in BATCHES[1:]:
        for name, choice in ((name, best[name]) for name in methods):
            tried = [{"rate": choice["rate"] * 2.0**k} for k in (0, 1)] if name == "Adam" else [choice]
            counts = []
            for one in tried:
                lane = Lane(name, methods[name], task, batch, 0, one)
                for i in range(steps if name == "Adam" else 2 * steps // 5):
                    lane.go(i)
                    if lane.losses[-1] <= target:
                        break
                counts.append(lane.reached(target))
            there = min((c for c in counts if c is not None), default=None)
            rows.append({"batch": batch, "method": name, "steps": there})
            print(f"batch {batch}, {name}: {there} steps")
    return rows


def draw(rows: list[dict[str, Any]], batches: list[dict[str, Any]], file: pathlib.Path) -> None:
    figure, (left, middle, right) = panels(3)
    for color, name in zip((GRAY, BLUE, RED), TRIALS, strict=True):
        for k, row in enumerate(rows):
            losses = row[name]["losses"]
            at = np.arange(len(losses)) * EVERY
            label = name if k == 0 else None
            curve(left, at, losses, label, color=color, alpha=0.6)
            curve(middle, at * row[name]["ms"] / 1e3, losses, color=color, alpha=0.6)
        found = [(r["batch"], r["steps"]) for r in batches if r["method"] == name]
        if found:
            curve(right, *zip(*found, strict=True), color=color, marker="o")
    low = min((value for row in rows for name in TRIALS for value in row[name]["losses"]), default=np.nan)
    for axes, label in ((left, "steps"), (middle, "seconds")):
        axes.set(xlabel=label, ylabel="loss; less is better")
        if low < 60:  # a short run ends above
            axes.set(ylim=(25, 70))
    right.set(xlabel="batch", ylabel="steps to Adam's last loss")
    plain_log(right.xaxis, ticks=BATCHES)
    plain_log(right.yaxis)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=tuple(TRIALS), help="run this method, and keep the rows of the others")
    parser.add_argument("--steps", type=int, default=1000, help="of Adam; the others have two fifths")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="a folder for the results")
    parser.add_argument("--draw", action="store_true", help="draw the results of that folder again, and train nothing")
    options = parser.parse_args()
    if options.draw:
        kept = json.loads((options.output / "autoencoder_kfac.json").read_text())
        draw(kept["seeds"], kept["batches"], options.output / "autoencoder_kfac.svg")
        return
    task = Task.of(*(FULL if options.full else SMALL), options.images)
    file = options.output / "autoencoder_kfac.json"
    if options.only and not file.exists():
        parser.error(f"--only keeps the rows of the others, but {file} is not there; run without --only first")
    kept = json.loads(file.read_text()) if options.only else {"best": {}, "trials": {}, "seeds": [], "batches": []}
    methods = {name: method(name, task) for name in ([options.only] if options.only else TRIALS)}
    best, trials = kept["best"], kept["trials"]
    for name, how in methods.items():
        # What counts is being early: the others are tuned for a third of Adam's steps.
        best[name], trials[name] = tune(name, how, task, options.steps if name == "Adam" else options.steps // 3)
    before = kept["seeds"] or [{}] * options.seeds
    rows = [race(methods, task, best, options.steps, seed, before[seed]) for seed in range(options.seeds)]
    batches = [row for row in kept["batches"] if row["method"] not in methods]
    batches += [{"batch": BATCHES[0], "method": name, "steps": rows[0][name]["steps"]} for name in methods]
    batches += scaling(methods, task, best, rows[0]["Adam"]["losses"][-1], options.steps)
    draw(rows, batches, options.output / "autoencoder_kfac.svg")
    result = {"jax": jax.__version__, "best": best, "trials": trials, "seeds": rows, "batches": batches}
    options.output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

"""AdaScale on scikit-learn's digits: batches of 1 to 32 base batches with the learning rate of one.

python examples/large_batch_adascale.py
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from plots import MARKERS, PALETTE, curve, panels, plain_log, save
from sklearn.datasets import load_digits
from tables import read, write
from tqdm import tqdm

import precond
from precond.replicas import gradients, over_groups

BASE, SCALES, LAYERS = 8, (1, 2, 4, 8, 16, 32), (64, 64, 32, 10)
MULTIPLIERS = (1, 2, 4, 8, 16, 32)


class Digits(NamedTuple):
    """All 1797 images, standardised by their common mean and deviation."""

    x: jax.Array
    y: jax.Array


class Run(NamedTuple):
    """One training of every seed.

    Attributes:
      iterations: `[seeds]`.
      loss: of all images, at the end, `[seeds]`.
      at: the iterations at which the curves were recorded, `[points]`.
      curve: loss of all images, `[points, seeds]`.
      tau: scale-invariant steps done, `[points, seeds]`.
      gain: at these iterations, `[points, seeds]`.
    """

    iterations: np.ndarray
    loss: np.ndarray
    at: np.ndarray
    curve: np.ndarray
    tau: np.ndarray
    gain: np.ndarray


def load() -> Digits:
    digits = load_digits()
    x = digits.data.astype(np.float32)
    return Digits(jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(digits.target))


def network(key: jax.Array) -> list[dict[str, jax.Array]]:
    """He's start."""
    keys = jax.random.split(key, len(LAYERS) - 1)
    sides = zip(keys, LAYERS[:-1], LAYERS[1:], strict=True)
    return [{"w": jax.random.normal(k, (m, n)) * np.sqrt(2 / m), "b": jnp.zeros(n)} for k, m, n in sides]


def loss(params: Any, batch: Digits) -> jax.Array:
    x = batch.x
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.y))


def base_schedule(total: int) -> optax.Schedule:
    """The learning rate that suits the base batch: from 0.1 down to 0.003 over its iterations."""
    return lambda step: 0.1 * 0.03 ** (step / total)


def sample(key: jax.Array, digits: Digits, size: int) -> Digits:
    rows = jax.random.randint(key, (size,), 0, len(digits.y))
    return Digits(digits.x[rows], digits.y[rows])


def train(
    digits: Digits, scale: int, seeds: int, every: int, step: Callable[..., Any], start: Callable[..., Any], *args: Any
) -> Run:
    """Train all seeds side by side, until `step` says that a seed has ended.

    Args:
      digits: the images.
      scale: base batches in a batch.
      seeds: how many.
      every: iterations between two evaluations.
      step: `(params, state, t, batch, *args)` to params, state, (tau, gain) after it, and whether this seed goes on.
      start: from params to the state.
      args: passed on.
    """
    keys = jax.random.split(jax.random.key(0), seeds)
    params = jax.vmap(network)(keys)
    evaluate = jax.jit(jax.vmap(loss, in_axes=(0, None)))

    def one(key: jax.Array, t: jax.Array, params: Any, state: Any, on: jax.Array, told: Any) -> Any:
        batch = sample(jax.random.fold_in(jax.random.fold_in(key, 1), t), digits, scale * BASE)
        *new, go_on = step(params, state, t, batch, *args)
        new = optax.tree.where(on, tuple(new), (params, state, told))
        return *new, on & go_on, on

    @jax.jit
    def several(carry: Any) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            t, params, state, told, on, count = carry
            move = jax.vmap(one, in_axes=(0, None, 0, 0, 0, 0))
            params, state, told, on, was = move(keys, t, params, state, on, told)
            return (t + 1, params, state, told, on, count + was), None

        return jax.lax.scan(body, carry, length=every)[0]

    nothing = (jnp.zeros(seeds), jnp.ones(seeds))
    carry = (
        jnp.zeros([], jnp.int32),
        params,
        jax.vmap(start)(params),
        nothing,
        jnp.ones(seeds, bool),
        jnp.zeros(seeds),
    )
    points = []
    while np.any(carry[4]):
        carry = several(carry)
        points.append([carry[0], evaluate(carry[1], digits), *carry[3]])
    at, curve, tau, gain = (np.stack(x) for x in zip(*points, strict=True))
    return Run(np.asarray(carry[5], int), curve[-1], at, curve, tau, gain)


def with_adascale(digits: Digits, scale: int, seeds: int, total: int) -> Run:
    tx = precond.adascale(optax.sgd, base_schedule(total), scale)
    gradient = over_groups(gradients(loss), scale)

    def step(params: Any, state: Any, t: jax.Array, batch: Digits) -> Any:
        del t
        _, mean, replicas = gradient(params, batch)
        updates, state = tx.update(mean, state, params, replicas=replicas)
        told = precond.metrics(state)
        ahead = told["adascale/step"], told["adascale/gain"]
        return optax.apply_updates(params, updates), state, ahead, ~precond.large_batches.done(state, total)

    return train(digits, scale, seeds, max(total // scale // 40, 1), step, tx.init)


def with_rates(digits: Digits, scale: int, seeds: int, rates: np.ndarray, total: int) -> Run:
    """SGD on batches of the same size, with a learning rate for every iteration."""
    count, given = len(rates), jnp.asarray(rates, jnp.float32)

    def step(params: Any, state: Any, t: jax.Array, batch: Digits) -> Any:
        gradient = jax.grad(loss)(params, batch)
        params = jax.tree.map(lambda p, g: p - given[t] * g, params, gradient)
        return params, state, ((t + 1) * total / count, jnp.ones([])), t + 1 < count

    return train(digits, scale, seeds, max(count // 40, 1), step, lambda params: ())


def rates_of(scale: float, iterations: int, total: int, *, warmup: float = 0.0) -> np.ndarray:
    """The base schedule over so many iterations, times the scale, which a warm-up reaches from 1 linearly."""
    t = np.arange(iterations)
    factor = np.minimum(1 + (scale - 1) * (t + 1) / max(warmup * iterations, 1), scale) if warmup else scale
    return factor * base_schedule(total)(t * total / iterations)


def compare(digits: Digits, seeds: int, total: int) -> dict[tuple[str, int], Run]:
    """Every rule at every scale."""
    runs: dict[tuple[str, int], Run] = {}
    plain = functools.partial(with_rates, digits, seeds=seeds, total=total)
    for scale in tqdm(SCALES, desc="scales"):
        ours = runs["AdaScale", scale] = with_adascale(digits, scale, seeds, total)
        if scale == 1:
            continue
        few, same = total // scale, int(np.mean(ours.iterations))
        runs["linear", scale] = plain(scale=scale, rates=rates_of(scale, few, total))
        runs["linear, warm-up", scale] = plain(scale=scale, rates=rates_of(scale, few, total, warmup=0.055))
        runs["square root", scale] = plain(scale=scale, rates=rates_of(np.sqrt(scale), few, total))
        runs["linear, AdaScale's iterations", scale] = plain(scale=scale, rates=rates_of(scale, same, total))
        tuned = [plain(scale=scale, rates=rates_of(m, same, total)) for m in MULTIPLIERS if m <= scale]
        runs["tuned, AdaScale's iterations", scale] = min(tuned, key=lambda r: np.nan_to_num(r.loss, nan=np.inf).mean())
    return runs


def rows(runs: dict[tuple[str, int], Run]) -> list[dict[str, Any]]:
    out = []
    for (rule, scale), run in runs.items():
        for seed, (iterations, value) in enumerate(zip(run.iterations, run.loss, strict=True)):
            row = {"rule": rule, "scale": scale, "seed": seed, "iterations": int(iterations)}
            out.append(row | {"loss": float(np.nan_to_num(value, nan=np.inf))})
    return out


def curve_rows(runs: dict[tuple[str, int], Run]) -> list[dict[str, Any]]:
    """Means over the seeds."""
    out = []
    for (rule, scale), run in runs.items():
        for at, tau, gain, value in zip(run.at, run.tau, run.gain, run.curve, strict=True):
            row = {"rule": rule, "scale": scale, "iteration": int(at), "step": round(float(tau.mean()), 1)}
            out.append(row | {"gain": round(float(gain.mean()), 3), "loss": round(float(value.mean()), 5)})
    return out


def show(runs: dict[tuple[str, int], Run]) -> None:
    base = np.mean(runs["AdaScale", 1].loss)
    print(f"\n{'rule':32}" + "".join(f"{f'S = {s}':>18}" for s in SCALES))
    for rule in dict.fromkeys(rule for rule, _ in runs):
        cells = []
        for scale in SCALES:
            run = runs.get((rule, scale))
            value = np.mean(run.loss) if run else None
            text = f"{value:.4f} ({value / base - 1:+.0%})" if run and value < 1 else "diverged" if run else ""
            cells.append(f"{text:>18}")
        print(f"{rule:32}" + "".join(cells))
    counts = [f"{np.mean(runs['AdaScale', s].iterations):.0f}" for s in SCALES]
    print(f"{'iterations of AdaScale':32}" + "".join(f"{c:>18}" for c in counts))


def draw(ends: list[dict[str, Any]], points: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and gain over scale-invariant steps, and the loss in the end against the scale."""
    figure, (curves, gains, last) = panels(3, height=3.2)

    def column(rule: str, scale: int, name: str) -> list[float]:
        return [row[name] for row in points if (row["rule"], row["scale"]) == (rule, scale)]

    for scale, color in zip(SCALES, PALETTE, strict=False):
        for axis, rule, name, style in (
            (curves, "AdaScale", "loss", {"label": f"S = {scale}"}),
            (gains, "AdaScale", "gain", {}),
            (curves, "linear", "loss", {"linestyle": ":", "linewidth": 1}),
        ):
            curve(axis, column(rule, scale, "step"), column(rule, scale, name), color=color, **style)
    curves.set(xlabel="scale-invariant steps (dotted: the linear rule)", ylabel="loss; less is better")
    gains.set(xlabel="scale-invariant steps", ylabel="gain")
    for marker, rule in zip(MARKERS, dict.fromkeys(row["rule"] for row in ends), strict=False):
        found = {s: [min(r["loss"], 10) for r in ends if (r["rule"], r["scale"]) == (rule, s)] for s in SCALES}
        means = [float(np.mean(losses)) if losses else None for losses in found.values()]
        curve(last, SCALES, means, rule, marker=marker, markersize=5)
    last.set(xlabel="scale; 10 stands for a run that diverged", ylabel="loss in the end; less is better")
    plain_log(last.xaxis, ticks=SCALES)
    for axis in (curves, gains, last):
        plain_log(axis.yaxis)
    curves.set_ylim(top=3)
    curves.legend(ncols=2)
    last.legend()
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000, help="iterations at scale 1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output", help="a folder")
    parser.add_argument("--draw", action="store_true", help="draw the CSVs of that folder again, and train nothing")
    options = parser.parse_args()
    files = [options.output / f"large_batch_adascale{end}" for end in (".csv", "_curves.csv", ".png")]
    if options.draw:
        draw(read(files[0]), read(files[1]), files[2])
        return
    begin = time.perf_counter()
    runs = compare(load(), options.seeds, options.steps)
    show(runs)
    write(rows(runs), files[0])
    write(curve_rows(runs), files[1])
    draw(rows(runs), curve_rows(runs), files[2])
    print(f"{time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()

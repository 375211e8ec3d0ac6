"""Shampoo, taken apart: one part at a time is swapped, and everything else stays.

    python examples/ablation.py                        all of it
    python examples/ablation.py --only root magnitude  two groups

Every variant trains the demo's transformer. What does not step with Adam's size has no learning rate in common with
the rest: there the best of several is shown, and the table says of how many.
"""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import optax
from plots import GRAY, PALETTE, curve, panels, save
from text import standard_library
from training import Lane, circumstances, race, schedule

import precond

OUTPUT = pathlib.Path(__file__).parent / "output"
RATE, B1, B2 = 0.016, 0.9, 0.95


class Parts(NamedTuple):
    """Hold the parts that are swapped. As they stand here, they are Shampoo with the powers of the paper."""

    statistics: Any = precond.outer_products(B2)
    root: Any = precond.inverse_root(damping=precond.relative(1e-6), method=precond.eigh())
    magnitude: Any = precond.transforms.scale_by_diagonal(B2, eps=1e-8, bias_correction=True)
    refresh: Any = precond.every(20, stagger=True)
    momentum: Any = optax.ema(B1)
    after: Any = optax.identity()
    block_size: int | None = 256
    views: Any = precond.views.default


def compose(parts: Parts, rate: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer, spelled out."""
    step = precond.scale_by_kronecker(parts.statistics, parts.root, refresh=parts.refresh)
    if parts.magnitude is not None:
        step = precond.graft(direction=step, magnitude=parts.magnitude)
    return optax.chain(
        precond.blocked(
            optax.chain(precond.with_momentum(parts.momentum, step), parts.after),
            block_size=parts.block_size,
            views=parts.views,
            otherwise=optax.scale_by_adam(B1, B2),
        ),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(rate),
    )


BASE = Parts()
ADAMS_SIZE = (1.0,)  # factors of the learning rate to try
SEVERAL = (0.25, 1.0, 4.0, 16.0, 64.0)


def swap(rates: tuple[float, ...] = ADAMS_SIZE, **parts: Any) -> tuple[Parts, tuple[float, ...]]:
    return BASE._replace(**parts), rates


GROUPS = {
    "base": {"base": swap()},
    "statistics": {
        "kl": swap(statistics=precond.kl(B2)),
        "kl, power 1/2, no graft": swap(
            statistics=precond.kl(B2),
            root=precond.inverse_root(power=0.5),
            magnitude=None,
            after=precond.transforms.clip_by_rms(1.0),
        ),
        "no average: a sum": swap(statistics=precond.outer_products(1.0)),
        "b2 0.99": swap(statistics=precond.outer_products(0.99)),
    },
    "root": {
        "power 1/2": swap(root=precond.inverse_root(power=0.5)),
        "eigenbasis": swap(root=precond.eigenbasis(B2), magnitude=None),
        "eigenbasis, late": swap(
            root=precond.eigenbasis(B2), magnitude=None, refresh=precond.every(20, stagger=True, delay=1)
        ),
    },
    "magnitude": {
        "SGD's": swap(SEVERAL, magnitude=optax.identity()),
        "none": swap(SEVERAL, magnitude=None),
    },
    "momentum": {
        "after the root": swap(momentum=optax.identity(), after=optax.ema(B1)),
        "looking ahead (NAdam's)": swap(momentum=precond.transforms.lookahead_ema(B1, B1**2)),
        "none": swap(momentum=optax.identity()),
    },
    "refresh": {
        "every step": swap(refresh=precond.every(1)),
        "every 20, at once": swap(refresh=precond.every(20)),
        "every 100, in turns": swap(refresh=precond.every(100, stagger=True)),
        "every 100, at once": swap(refresh=precond.every(100)),
    },
    "damping": {
        "1e-4": swap(root=precond.inverse_root(damping=precond.relative(1e-4))),
        "1e-8": swap(root=precond.inverse_root(damping=precond.relative(1e-8))),
    },
    "method": {"newton": swap(root=precond.inverse_root(method=precond.newton()))},
    "blocks": {
        "of 32": swap(block_size=32),
        "of 64": swap(block_size=64),
        "of 128": swap(block_size=128),
        "embeddings too, small side": swap(views=precond.views.rules(("embedding", precond.views.small_side))),
    },
}


def run(group: str, steps: int, seed: int, text: Any) -> list[dict[str, Any]]:
    """Train a group's variants side by side, and keep of each the best learning rate."""
    print(group)
    trials = {
        f"{name} x{factor:g}": compose(parts, schedule(RATE * factor, steps))
        for name, (parts, factors) in GROUPS[group].items()
        for factor in factors
    }
    lanes = race(trials, text, steps=steps, seed=seed)
    found = []
    for name, (_, factors) in GROUPS[group].items():
        factor = min(factors, key=lambda factor: nan_last(lanes[f"{name} x{factor:g}"]))
        lane = lanes[f"{name} x{factor:g}"]
        found.append(
            {
                "group": group,
                "variant": name,
                "learning_rate": RATE * factor,
                "rates_tried": len(factors),
                "held_out_loss": round(lane.held_out[-1], 4),
                "step_ms": round(1e3 * lane.seconds[-1] / steps, 1),
                "evaluated": lane.evaluated,
                "held_out": [round(value, 4) for value in lane.held_out],
            }
        )
    return found


def nan_last(lane: Lane) -> float:
    return lane.held_out[-1] if lane.held_out[-1] == lane.held_out[-1] else float("inf")


def show(found: list[dict[str, Any]]) -> None:
    base = found[0]["held_out_loss"]
    print(f"\n{'':40}  learning       held-out              one step")
    print(f"{'':40}      rate  (of)     loss  minus base       [ms]")
    for row in found:
        print(
            f"{row['group']:12}{row['variant']:28}  {row['learning_rate']:8.4f}  ({row['rates_tried']})"
            f"{row['held_out_loss']:10.3f}  {row['held_out_loss'] - base:+10.3f}  {row['step_ms']:9.1f}"
        )


def plot(found: list[dict[str, Any]], path: pathlib.Path) -> None:
    base, *others = found
    groups = list(dict.fromkeys(row["group"] for row in others)) or ["base"]
    figure, axes = panels(len(groups), height=2.3, sharex=True, sharey=True)
    first, last = base["held_out"][0], base["held_out"][-1]
    for axis, group in zip(axes, groups, strict=True):
        curve(axis, base["evaluated"], base["held_out"], "base", color=GRAY, linewidth=3)
        variants = [row for row in others if row["group"] == group]
        for row, color, style in zip(variants, PALETTE[1:], ("-", "--", ":", "-."), strict=False):
            curve(axis, row["evaluated"], row["held_out"], row["variant"], color=color, linestyle=style)
        axis.set(title=group)
        if last + 1 < first:
            axis.set(ylim=(last - 0.15, last + 1))
        axis.legend()
    axes[-1].set(xlabel="steps")
    figure.supylabel("held-out loss; less is better")
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="groups beside the base")
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT, help="a folder for ablation.png and .json")
    parser.add_argument("--draw", action="store_true", help="draw ablation.json of that folder again, train nothing")
    options = parser.parse_args()
    if options.draw:
        plot(json.loads((options.output / "ablation.json").read_text())["variants"], options.output / "ablation.png")
        return
    text = standard_library()
    groups = ["base", *(group for group in options.only if group != "base")]
    found = [row for group in groups for row in run(group, options.steps, options.seed, text)]
    show(found)
    options.output.mkdir(parents=True, exist_ok=True)
    plot(found, options.output / "ablation.png")
    result = circumstances(text, options.steps, options.seed) | {"variants": found}
    (options.output / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

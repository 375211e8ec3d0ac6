"""Every program with AdamW and with the optimizers of this library at AdamW's learning rate, as JSON and as a table.

python examples/programs/table.py
"""

import argparse
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)  # before any program makes an array

import batch_norm
import equinox_module
import gan
import haiku_dicts
import lora
import nnx_partitioned
import numpy as np
import optax
import pinn
import ppo_kfac
import ppo_scan
import sharded_transformer
import vmc

import precond

__all__ = ["PROGRAMS", "markdown", "measure", "optimizers"]

PROGRAMS = {
    "sharded_transformer": (sharded_transformer, sharded_transformer.train),
    "nnx_partitioned": (nnx_partitioned, nnx_partitioned.train),
    "batch_norm, shard_map": (batch_norm, batch_norm.train),
    "batch_norm, pmap": (batch_norm, batch_norm.train_by_pmap),
    "equinox_module": (equinox_module, equinox_module.train),
    "haiku_dicts": (haiku_dicts, haiku_dicts.train),
    "lora": (lora, lora.train),
    "gan": (gan, gan.train),
    "ppo_scan": (ppo_scan, ppo_scan.train),
    "ppo_kfac": (ppo_kfac, ppo_kfac.train),
    "pinn": (pinn, pinn.train),
    "vmc": (vmc, vmc.train),
}
ALIASES = {"Shampoo": precond.shampoo, "SOAP": precond.soap, "KL-Shampoo": precond.kl_shampoo}
COLUMNS = ["AdamW", *ALIASES, "K-FAC", "K-FAC, its own rate"]
OUTPUT = Path(__file__).parents[1] / "output" / "programs.json"


def optimizers(program: ModuleType) -> Iterator[tuple[str, float, Any]]:
    """Names, learning rates, and what takes the place of the optimizer in a program; AdamW's weight decay is 1e-4."""
    yield "AdamW", program.RATE, optax.adamw(program.RATE, **getattr(program, "ADAMW", {}))
    for name, alias in ALIASES.items():
        yield name, program.RATE, alias(program.RATE, weight_decay=1e-4, **program.OPTIONS)
    if hasattr(program, "KFAC_RATE"):
        for name, rate in (("K-FAC", program.RATE), ("K-FAC, its own rate", program.KFAC_RATE)):
            yield name, rate, lambda found, rate=rate: precond.kfac(rate, found, **program.KFAC_OPTIONS)


def measure(name: str, seeds: int, steps: int | None) -> list[dict[str, Any]]:
    """The first loss, and the mean of the last tenth of all, for each optimizer and seed."""
    program, train = PROGRAMS[name]
    steps, rows = program.STEPS if steps is None else steps, []
    for optimizer, rate, tx in optimizers(program):
        runs = np.asarray([train(tx, steps, seed) for seed in range(seeds)])
        first, last = runs[:, 0], runs[:, -max(steps // 10, 1) :].mean(1)
        row = {"program": name, "optimizer": optimizer, "learning_rate": rate, "steps": steps}
        rows.append(row | {"first": [round(float(x), 6) for x in first], "last": [round(float(x), 6) for x in last]})
        print(f"{name}: {optimizer} at {rate}: from {first.mean():.4g} to {last.mean():.4g}", flush=True)
    return rows


def number(losses: list[float]) -> str:
    return f"{np.mean(losses):#.3g}"


def markdown(results: dict[str, Any]) -> str:
    """The means over the seeds."""
    lines = [" | ".join(["", "program", "rate", "steps", "at the start", *COLUMNS, ""]).strip(), "|---" * 10 + "|"]
    for name in PROGRAMS:
        rows = {row["optimizer"]: row for row in results["rows"] if row["program"] == name}
        if rows:
            adamw = rows["AdamW"]
            cells = [number(rows[c]["last"]) if c in rows else "" for c in COLUMNS]
            if COLUMNS[-1] in rows:
                cells[-1] += f" ({rows[COLUMNS[-1]]['learning_rate']:g})"
            start = [f"{adamw['learning_rate']:g}", str(adamw["steps"]), number(adamw["first"])]
            lines.append(" | ".join(["", f"`{name}`", *start, *cells, ""]).strip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="*", choices=PROGRAMS, default=list(PROGRAMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="in place of each program's own")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="rows of other programs there are kept")
    options = parser.parse_args()
    kept = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    versions = {"python": platform.python_version(), "precond": precond.__version__}
    versions |= {name: version(name) for name in ("jax", "optax", "flax")}
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.programs:
        kept = [row for row in kept if row["program"] != name] + measure(name, options.seeds, options.steps)
        results = {"versions": versions, "device": device, "seeds": options.seeds, "rows": kept}
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()

"""What the benchmarks share: alternating timing, results with the versions and the machine, and how pictures look."""

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

# Before numpy and jax are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

# All pictures of the repository are drawn by `plots`.
sys.path.append(str(Path(__file__).parent.parent / "examples"))

# A trial run leaves the committed results and pictures as they are.
TRIAL = os.environ.get("BENCH_OUTPUT")
RESULTS = Path(TRIAL or Path(__file__).parent / "results")
IMAGES = Path(TRIAL or Path(__file__).parent.parent / "docs" / "images")


def seconds(run: Callable[[], Any]) -> float:
    """The time until what `run` returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def alternating(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, one after the other, again and again: what disturbs the machine disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Mean, median and extremes in milliseconds."""
    ms = [1e3 * t for t in times]
    numbers = {"mean": statistics.mean(ms), "median": statistics.median(ms), "max": max(ms), "min": min(ms)}
    return {name: round(x, 2) for name, x in numbers.items()}


def machine() -> dict[str, Any]:
    """Where, and with which versions, a result was measured."""
    packages = ("jax", "jaxlib", "optax", "numpy", "precondition-opt")
    found = {p: metadata.version(p) for p in packages if _installed(p)}
    device = jax.devices()[0]
    where = {"device": device.device_kind, "platform": device.platform, "cores": os.cpu_count()}
    return where | {"processor": platform.machine(), "python": platform.python_version()} | found


@functools.cache
def commit() -> str:
    """The commit that is measured, with a "+" if files were changed since; empty outside of a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def load(name: str) -> dict[str, Any]:
    """Return a result that was saved, to draw it again."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result as JSON, with the machine, and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine()} | result, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)

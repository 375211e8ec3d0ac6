"""All tasks. The defaults of each are its size for one core of a CPU."""

from collections.abc import Callable
from typing import Any, NamedTuple

from autoencoder_kfac import FULL

from benchmarks.quality.functions import factorisation, physics, quadratic
from benchmarks.quality.images import convolutions, curves, mixer
from benchmarks.quality.task import Task
from benchmarks.quality.texts import characters, lora

__all__ = ["TASKS", "Task"]


class Sizes(NamedTuple):
    """A task, and its other sizes: for a GPU, and for a test of the benchmark itself."""

    make: Callable[..., Task]
    gpu: dict[str, Any]
    quick: dict[str, Any]


WIDE = {"width": 512, "heads": 8, "depth": 8, "length": 256, "size": 64, "steps": 4000}
TINY = {"width": 8, "heads": 2, "depth": 1, "length": 8, "size": 8, "steps": 40}
TASKS = {
    "characters": Sizes(characters, WIDE, TINY),
    "factorisation": Sizes(
        factorisation,
        {"rows": 2048, "columns": 1536, "rank": 256, "steps": 4000},
        {"rows": 12, "columns": 8, "rank": 4, "steps": 40},
    ),
    "curves": Sizes(
        curves,
        {"side": 28, "widths": FULL[1], "images": 20000, "size": 1024, "steps": 4000},
        {"side": 4, "widths": (6, 3), "images": 20, "size": 8, "steps": 40},
    ),
    "convolutions": Sizes(
        convolutions, {"width": 128, "size": 512, "steps": 2000}, {"width": 2, "size": 8, "steps": 40}
    ),
    "mixer": Sizes(
        mixer, {"width": 512, "depth": 8, "size": 512, "steps": 2000}, {"width": 8, "depth": 1, "size": 8, "steps": 40}
    ),
    "physics": Sizes(
        physics,
        {"sizes": (1, 256, 256, 256, 1), "points": 4096, "steps": 4000},
        {"sizes": (1, 4, 1), "points": 8, "steps": 40},
    ),
    "lora": Sizes(lora, WIDE | {"rank": 16, "pretraining": 4000}, TINY | {"rank": 2, "pretraining": 2}),
    "quadratic": Sizes(
        quadratic, {"rows": 1024, "columns": 768, "steps": 4000}, {"rows": 8, "columns": 6, "steps": 40}
    ),
}

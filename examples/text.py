"""Real text that is on every machine: the source of Python's own standard library."""

import hashlib
import pathlib
import sysconfig
from typing import NamedTuple

import numpy as np

__all__ = ["SYMBOLS", "Text", "batches", "standard_library", "windows"]

SYMBOLS = 128
"""Bytes are clipped to ASCII, so there are this many."""

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


class Text(NamedTuple):
    """Attributes:
    train: bytes to learn from.
    held_out: bytes of every tenth file, which training never sees.
    sha256: of all bytes in order; it differs from one version of Python to the next.
    """

    train: np.ndarray
    held_out: np.ndarray
    sha256: str


def standard_library() -> Text:
    """All `.py` files of the standard library but its tests, in the order of their paths."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    paths = sorted(path.as_posix() for path in paths if not _LEFT_OUT.intersection(path.parts))
    files = [(root / path).read_bytes() for path in paths]
    split = [b"".join(file for i, file in enumerate(files) if (i % 10 == 9) == held) for held in (False, True)]
    train, held_out = (np.minimum(np.frombuffer(part, np.uint8), SYMBOLS - 1) for part in split)
    return Text(train, held_out, hashlib.sha256(b"".join(files)).hexdigest())


def windows(text: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Stretches of `length + 1` bytes: the inputs, and shifted by one the targets. `[.., length + 1]`."""
    return text[starts[..., None] + np.arange(length + 1)]


def batches(text: np.ndarray, steps: int, size: int, length: int, seed: int) -> np.ndarray:
    """One batch of random windows a step, `[steps, size, length + 1]`: the same for every optimizer."""
    starts = np.random.default_rng(seed).integers(0, len(text) - length, (steps, size))
    return windows(text, starts, length)

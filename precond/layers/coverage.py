"""Which parameters have factors, which have none, and why: as a table, and as an error."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from precond.arguments import shown
from precond.blocks import Layer
from precond.layers.kinds import Conv, Embed, Scale
from precond.layers.sharing import DoublyFactored
from precond.layers.tap import Tap

__all__ = ["Coverage", "Leave", "Row", "check_covered", "check_patterns"]

Leave = Callable[[str], bool] | Sequence[str]
"""Paths of parameters that may be left without factors: a predicate, or regular expressions."""


class Row(NamedTuple):
    """One line of the table: a layer, or a parameter without factors.

    Attributes:
      path: of the layer, or of the parameter.
      kind: of the layer and its weight sharing; empty for a parameter without factors.
      factors: their shapes.
      bytes: that they take.
      reason: why there are none; empty for a layer.
      numbers: how many the parameters have.
    """

    path: str
    kind: str
    factors: str
    bytes: int
    reason: str
    numbers: int

    @classmethod
    def of(cls, path: str, layer: Layer, spec: Tap, kernel: Any) -> "Row":
        """The line of a layer with factors."""
        stack = math.prod(kernel.shape[: layer.lead])
        groups, i, o = layer.size
        shapes = [(i,)] if layer.diagonal else [(d, d) for d in layer.tensor[:-1]]
        shapes += [(o, o)] if layer.outputs else []
        dtype = jnp.promote_types(jnp.float32, kernel.dtype)
        size = stack * groups * sum(math.prod(s) for s in shapes) * dtype.itemsize
        count = f"{stack * groups} x " if stack * groups > 1 else ""
        named = count + " + ".join("x".join(map(str, s)) for s in shapes)
        kind = type(spec.kind).__name__.lower()
        if not isinstance(spec.kind, (Embed, Scale)):
            kind += f", {_name(spec.sharing)}"
        if isinstance(spec.kind, Conv) and spec.kind.groups > 1:
            kind += f", {spec.kind.groups} groups"
        return cls(path, kind, named, size, "", stack * groups * i * o)


def _name(sharing: Any) -> str:
    return "doubly factored" if isinstance(sharing, DoublyFactored) else getattr(sharing, "__name__", "own")


class Coverage(NamedTuple):
    """The table; `str` sets it.

    Attributes:
      rows: of layers first, then of parameters without factors.
    """

    rows: tuple[Row, ...]

    @property
    def missing(self) -> dict[str, str]:
        """The paths of parameters without factors, and why."""
        return {row.path: row.reason for row in self.rows if row.reason}

    @property
    def bytes(self) -> int:
        """That all factors of one batch take."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "kind", "factors", "bytes", "no factors, because")
        body = [(row.path, row.kind, row.factors, f"{row.bytes:,}", row.reason) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *body]
        ]
        covered = sum(row.numbers for row in self.rows if not row.reason)
        total = sum(row.numbers for row in self.rows)
        return "\n".join([*lines, f"{covered:,} of {total:,} parameters have factors, of {self.bytes:,} bytes"])


def check_covered(coverage: Coverage, leave: Leave) -> None:
    """Raise if a parameter has no factors and nobody said that this is meant.

    Args:
      coverage: the table.
      leave: which may have none.

    Raises:
      ValueError: with the table.

    Examples:
      >>> table = Coverage((Row("position", "", "", 0, "no rule for Position", 8),))
      >>> check_covered(table, leave=["position"])
      >>> check_covered(table, leave=[])
      Traceback (most recent call last):
      ...
      ValueError: 1 parameters would have no factors: position (no rule for Position). Name them in leave= ...
    """
    allowed = leave if callable(leave) else lambda path: any(re.search(pattern, path) for pattern in leave)
    lost = {path: reason for path, reason in coverage.missing.items() if not allowed(path)}
    if lost:
        names = ", ".join(f"{path} ({reason})" for path, reason in lost.items())
        raise ValueError(
            f"{len(lost)} parameters would have no factors: {names}. Name them in leave= (regular expressions, or a "
            f"predicate of the path) to have them trained by the optimizer's otherwise=, or give their layer a rule.\n"
            f"{coverage}"
        )


def check_patterns(name: str, patterns: Any, paths: Iterable[str]) -> None:
    """Raise for a regular expression that is found in none of the paths.

    Args:
      name: of the argument that has them.
      patterns: regular expressions; a predicate is not looked at.
      paths: in one of which each must be found.

    Raises:
      TypeError: for a pattern that is no string.
      ValueError: naming the first that is not found, or that is not a regular expression.

    Examples:
      >>> check_patterns("leave", ["embeding"], ["embedding", "head/kernel"])
      Traceback (most recent call last):
      ValueError: leave= has 'embeding', which is found in no path: there are embedding, head/kernel.
    """
    known = list(paths)
    if callable(patterns):
        return
    if isinstance(patterns, str):
        raise TypeError(f"{name}={patterns!r}: must be a list of regular expressions, such as [{patterns!r}].")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{name}= has {shown(pattern)}, where a regular expression belongs.")
        try:
            found = any(re.search(pattern, path) for path in known)
        except re.error as error:
            raise ValueError(f"{name}= has {pattern!r}, which is not a regular expression: {error}.") from error
        if not found:
            some = ", ".join([*known[:5], ".."] if len(known) > 5 else known)
            raise ValueError(f"{name}= has {pattern!r}, which is found in no path: there are {some}.")

"""Tell which parameters have factors, which have none, and why: as a table, and as an error."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from precond.blocks import Layer
from precond.layers.tap import Tap
from precond.trees import Leaf, wide_dtype

__all__ = ["Coverage", "Row", "Uncovered", "check_covered"]

Uncovered = Callable[[str], bool] | Sequence[str]
"""Paths of parameters that may have no factors: a predicate, or regular expressions that are searched in the path."""


class Row(NamedTuple):
    """Hold one line of the table: a layer, or a parameter without factors.

    Attributes:
      path: the path of the layer, or of the parameter.
      kind: the layer's kind and its weight sharing; empty for a parameter without factors.
      factors: the shapes of the factors.
      bytes: how much memory the factors take.
      reason: why the parameter has no factors; empty for a layer.
      numbers: how many numbers the parameters hold.
    """

    path: str
    kind: str
    factors: str
    bytes: int
    reason: str
    numbers: int

    @classmethod
    def of(cls, path: str, layer: Layer, spec: Tap, kernel: Leaf) -> "Row":
        """Return the line of a layer with factors.

        Args:
          path: the path of the layer.
          layer: the layer of the capture.
          spec: the tap of the layer.
          kernel: the weights of the layer, or their shape and dtype.
        """
        groups, i, o = layer.size
        count, shapes = math.prod(layer.layer_sizes(tuple(kernel.shape))) * groups, layer.factor_shapes.values()
        size = count * sum(map(math.prod, shapes)) * wide_dtype(kernel).itemsize
        named = (f"{count} x " if count > 1 else "") + " + ".join("x".join(map(str, s)) for s in shapes)
        kind = spec.kind.label(getattr(spec.sharing, "__name__", "own"))
        return cls(path, kind, named, size, "", count * i * o)


class Coverage(NamedTuple):
    """Hold the table; `str` sets it.

    Attributes:
      rows: the layers first, then the parameters without factors.
    """

    rows: tuple[Row, ...]

    @property
    def missing(self) -> dict[str, str]:
        """Return why parameters have no factors, by path."""
        return {row.path: row.reason for row in self.rows if row.reason}

    @property
    def bytes(self) -> int:
        """Return how much memory all factors of one batch take."""
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


def check_covered(coverage: Coverage, allow_uncovered: Uncovered) -> None:
    """Raise an error if a parameter has no factors and is not named as one that may have none.

    Args:
      coverage: the table.
      allow_uncovered: which parameters may have no factors.

    Raises:
      ValueError: with the table.

    Examples:
      >>> table = Coverage((Row("position", "", "", 0, "no rule for Position", 8),))
      >>> check_covered(table, allow_uncovered=["position"])
      >>> check_covered(table, allow_uncovered=[])
      Traceback (most recent call last):
      ...
      ValueError: 1 parameters would have no factors: position (no rule for Position). Name them in allow_uncovered= ...
    """
    patterns = [] if callable(allow_uncovered) else allow_uncovered
    allowed = (
        allow_uncovered
        if callable(allow_uncovered)
        else lambda path: any(re.search(pattern, path) for pattern in patterns)
    )
    lost = {path: reason for path, reason in coverage.missing.items() if not allowed(path)}
    if lost:
        names = ", ".join(f"{path} ({reason})" for path, reason in lost.items())
        raise ValueError(
            f"{len(lost)} parameters would have no factors: {names}. Name them in allow_uncovered= (regular "
            f"expressions, or a predicate of the path) to have them trained by the optimizer's otherwise=, or give "
            f"their layer a rule.\n{coverage}"
        )

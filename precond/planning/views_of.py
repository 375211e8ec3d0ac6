"""Report how an optimizer reads its parameters, in one row for each."""

import warnings
from typing import Any

import jax
import optax

from precond.arguments import check_arrays, described
from precond.blocks import Reading, collect_reports, readings_of, without_probes

__all__ = ["Readings", "views_of"]


class Readings(tuple[Reading, ...]):
    """Hold rows that print as a table.

    Examples:
      >>> print(Readings((Reading("kernel", (4, 6), None, "not preconditioned", {}),)))
      parameter  shape  read as             blocks
      kernel     4 x 6  not preconditioned
    """

    __slots__ = ()

    def __str__(self) -> str:
        """Return the rows, aligned, under the names of their columns."""
        head = ("parameter", "shape", "read as", "blocks")
        rows = [head, *((row.path, _times(row.shape), row.words, _blocks(row)) for row in self)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        return "\n".join("  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "scalar"


def _blocks(row: Reading) -> str:
    return ", ".join(f"{count} of {name}" for name, count in row.blocks.items())


@described()
def views_of(tx: optax.GradientTransformation, params: Any) -> Readings:
    """Say how an optimizer reads each parameter, without allocating anything.

    The optimizer may be any of this library, also within `optax.chain`, `optax.partition`, `optax.masked` and other
    wrappers: it is asked by tracing its `init`. Like `init`, it warns of parameters that are probably read wrongly.

    Args:
      tx: the optimizer.
      params: a tree of arrays, or of anything with `shape` and `dtype`.

    Returns:
      One row a parameter, in the order of the tree, or several where several optimizers read it; to be printed. See
      `precond.blocks.Reading` for the fields. A view of None says that the parameter is not preconditioned.

    Raises:
      ValueError, TypeError: for what `tx.init` does not take.

    Examples:
      >>> import precond
      >>> f32 = (
      ...     jax.ShapeDtypeStruct((6, 64, 128), "float32"),
      ...     jax.ShapeDtypeStruct((6, 128), "float32"),
      ... )
      >>> params = {"mlp": {"kernel": f32[0], "bias": f32[1]}}
      >>> print(precond.views_of(precond.shampoo(1e-3, block_size=64), params))
      parameter   shape         read as              blocks
      mlp/bias    6 x 128       not preconditioned
      mlp/kernel  6 x 64 x 128  6 matrices 64 x 128  12 of 64x64
    """
    check_arrays("params", without_probes(params))
    with collect_reports() as report:
        jax.eval_shape(lambda tree: tx.init(tree), params)  # a new function, of which JAX has kept no trace
    for mistake in dict.fromkeys(report.mistakes):
        warnings.warn(mistake, stacklevel=3)
    rows: list[Reading] = []
    for left in readings_of(without_probes(params), lambda path, leaf: None, None):
        found = [row for row in report.readings if row.path == left.path and row.view is not None]
        rows += [row for k, row in enumerate(found) if row not in found[:k]] or [left]
    return Readings(rows)

"""Define the kind of parameters that are added to an array: position tables and free vectors."""

import dataclasses

import jax
import jax.numpy as jnp

from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Signals, count_of

__all__ = ["Added"]


@dataclasses.dataclass(frozen=True)
class Added(Kind):
    """Describe a parameter that is added, y = x + p, with the Fisher matrix of examples: its diagonal, or by row.

    The parameter is repeated over all axes of y but its own, which are the last ones: a table of positions `[t, d]` is
    added to `[n, t, d]`, and a vector `[d]` to anything that ends with d.

    Attributes:
      rank: how many axes the parameter has.
      whole: whether each row, of the last axis, has its whole matrix. Otherwise each number has its own.
      bias: it has none beside it.
    """

    rank: int = 1
    whole: bool = False
    bias: bool = dataclasses.field(default=False, init=False)
    weights_name = "bias"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer: a column without a factor of outputs, for each row or for each number."""
        count, axes = len(shape) - self.rank, tuple(range(self.rank))  # the number of layer axes, and the others
        groups, inputs = (axes[:-1], axes[-1:]) if self.whole else (axes, ())
        return Layer(kernel, bias, count, shape[count:], groups, inputs, ())

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the gradient of each example, `[n, 1, rows, d]` or `[n, 1, entries, 1]`."""
        del x
        own = g.shape[g.ndim - self.rank :]
        each = jnp.sum(g.reshape(count_of(g.shape, batch), -1, *own), axis=1)
        return Signals(each.reshape(each.shape[0], 1, -1, own[-1] if self.whole else 1), None)

    def label(self, sharing: str) -> str:
        """Return the kind for the coverage table; no sharing rule acts on it."""
        del sharing
        return "added, by row" if self.whole else "added, diagonal"

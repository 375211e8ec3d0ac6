"""The parameters of one layer as a stack of matrices: weights, and the bias as a last row."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Layer"]


class Layer(NamedTuple):
    """Where the parameters of one layer are, and how they are read as matrices `[L, inputs, outputs]`.

    The kernel's axes are `lead` axes of a batch (layers that are scanned, models that are mapped), and those named
    here; together with a row for the bias, every entry of the batch and of the groups is a matrix of its own.

    Attributes:
      kernel: path of the weights, `"Dense_0/kernel"`.
      bias: path of the bias, or None.
      lead: how many leading axes of both are a batch.
      shape: the kernel is first read in this shape (without the leading axes), which may split an axis.
      groups: its axes that are independent of one another (groups of a convolution, channels of a scale).
      inputs: its axes that are contracted with the layer's input, in the order of the factor.
      outputs: its axes that are the layer's output, likewise; none for a scale, which has only the other factor.
      diagonal: whether the factor of the inputs is a diagonal one (an embedding's).
      positions: where the inputs are a map, `[positions, channels]` with a factor each, the number of its positions;
        else None. The bias is then a block of its own.

    Examples:
      >>> layer = Layer("dense/kernel", "dense/bias", 0, (2, 3), (), (0,), (1,))
      >>> layer.size
      (1, 3, 3)
      >>> layer.matrix(jnp.zeros((2, 3)), jnp.ones(3)).tolist()
      [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """

    kernel: str
    bias: str | None
    lead: int
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    diagonal: bool = False
    positions: int | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """The number of groups, and the rows and columns of a matrix; the bias counts as a row."""
        groups, inputs, outputs = (
            math.prod(self.shape[i] for i in x) for x in (self.groups, self.inputs, self.outputs)
        )
        return groups, inputs + (self.bias is not None), outputs

    def blocks(self, name: str) -> dict[str, "Layer"]:
        """This layer by its name; where the bias is a block of its own, without it, and the bias by its path.

        Args:
          name: of the layer.

        Examples:
          >>> layer = Layer("head/kernel", "head/bias", 0, (6, 3), (), (0,), (1,), positions=2)
          >>> [(name, part.tensor) for name, part in layer.blocks("head").items()]
          [('head', (2, 3, 3)), ('head/bias', (3, 1))]
        """
        if self.positions is None or self.bias is None:
            return {name: self}
        groups, _, outputs = self.size
        alone = Layer(self.bias, None, self.lead, (groups, outputs), (0,), (1,), ())
        return {name: self._replace(bias=None), self.bias: alone}

    @property
    def tensor(self) -> tuple[int, ...]:
        """The shape of a block: a matrix, or, for a map, `(positions, channels, outputs)`."""
        _, inputs, outputs = self.size
        if self.positions is None:
            return inputs, outputs
        return self.positions, (inputs - (self.bias is not None)) // self.positions, outputs

    def seen_from(self, place: str) -> "Layer":
        """The same layer, with paths from this place on.

        Args:
          place: the path of what the parameters are in.

        Examples:
          >>> Layer("dense/kernel", None, 0, (2, 3), (), (0,), (1,)).seen_from("dense").kernel
          'kernel'
        """
        start = len(f"{place}/" if place else "")
        return self._replace(kernel=self.kernel[start:], bias=None if self.bias is None else self.bias[start:])

    def put_at(self, place: str) -> "Layer":
        """The inverse of `seen_from`.

        Args:
          place: likewise.
        """
        start = f"{place}/" if place else ""
        return self._replace(kernel=start + self.kernel, bias=None if self.bias is None else start + self.bias)

    @property
    def _order(self) -> tuple[int, ...]:
        return self.groups + self.inputs + self.outputs

    def matrix(self, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """The matrices, `[L, inputs, outputs]`.

        Args:
          kernel: the weights, or their gradient.
          bias: likewise; None for a layer whose bias is None.
        """
        _, rows, columns = self.size
        read = kernel.reshape(-1, *self.shape).transpose(0, *(1 + i for i in self._order))
        weights = read.reshape(-1, rows - (self.bias is not None), columns)
        if bias is None:
            return weights
        return jnp.concatenate([weights, bias.reshape(-1, 1, columns)], axis=1)

    def parameters(self, matrix: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> list[jax.Array]:
        """The inverse of `matrix`.

        Args:
          matrix: `[L, inputs, outputs]`, or in the shape of `tensor`.
          kernel: what has the weights' shape and dtype.
          bias: likewise, or None.

        Returns:
          The weights, and the bias if there is one.
        """
        order = self._order
        matrix = matrix.reshape(len(matrix), *self.size[1:])
        weights = matrix if bias is None else matrix[:, :-1]
        back = sorted(range(len(order)), key=order.__getitem__)
        read = weights.reshape(-1, *(self.shape[i] for i in order)).transpose(0, *(1 + i for i in back))
        out = [read.reshape(kernel.shape).astype(kernel.dtype)]
        return out if bias is None else [*out, matrix[:, -1].reshape(bias.shape).astype(bias.dtype)]

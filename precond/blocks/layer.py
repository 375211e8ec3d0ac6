"""Say where the parameters of one layer are, and how they are read as matrices."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from precond.blocks.layer_axes import layer_axes_first
from precond.blocks.view import View

__all__ = ["Layer"]


class Layer(NamedTuple):
    """Say where the parameters of one layer are, and how they are read as matrices `[L, inputs, outputs]`.

    The kernel has `layer_ndim` layer axes (of scanned layers, or of `jax.vmap`) and the axes that are named here. Every
    entry of the layer axes and of the groups is a matrix of its own, with a row for the bias.

    Attributes:
      kernel: the path of the weights, `"Dense_0/kernel"`.
      bias: the path of the bias, or None.
      layer_ndim: the number of layer axes of both.
      shape: the shape in which the kernel is first read (without the layer axes), which may split an axis.
      groups: the axes of this shape that are independent of one another (groups of a convolution, channels of a scale).
      inputs: the axes that are contracted with the layer's input, in the order of the factor.
      outputs: the axes that are the layer's output, in the order of the factor; none for a scale, which has only the
        other factor.
      diagonal: whether the factor of the inputs is a diagonal one (an embedding's).
      positions: the number of positions if the layer is doubly factored, so that its inputs are `[positions, channels]`
        with a factor each; else None. The bias of such a layer is read by itself.
      layer_axes: the layer axes of the weights; None: the first ones. The other axes are `shape`.
      bias_layer_axes: the layer axes of the bias; None: the first ones.

    Examples:
      >>> layer = Layer("dense/kernel", "dense/bias", 0, (2, 3), (), (0,), (1,))
      >>> layer.size
      (1, 3, 3)
      >>> layer.matrix(jnp.zeros((2, 3)), jnp.ones(3)).tolist()
      [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """

    kernel: str
    bias: str | None
    layer_ndim: int
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    diagonal: bool = False
    positions: int | None = None
    layer_axes: tuple[int, ...] | None = None
    bias_layer_axes: tuple[int, ...] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """The number of groups, and the rows and columns of a matrix; the bias counts as a row."""
        groups, inputs, outputs = (
            math.prod(self.shape[i] for i in x) for x in (self.groups, self.inputs, self.outputs)
        )
        return groups, inputs + (self.bias is not None), outputs

    @property
    def places(self) -> tuple[int, ...]:
        """The place of each axis of `shape` among the axes of the weights, as they are first read."""
        axes = range(self.layer_ndim) if self.layer_axes is None else self.layer_axes
        return tuple(i for i in range(self.layer_ndim + len(self.shape)) if i not in axes)

    @property
    def batch_order(self) -> tuple[int, ...]:
        """The order of the layer axes and the `groups` in the batch of matrices."""
        axes = tuple(range(self.layer_ndim)) if self.layer_axes is None else self.layer_axes
        both = (*axes, *(self.places[i] for i in self.groups))
        return tuple(sorted(range(len(both)), key=both.__getitem__))

    @property
    def _columns_of_bias(self) -> tuple[int, ...] | None:
        """The axes of the bias that are columns, or None if its layer axes are the first ones."""
        if self.bias is None or self.bias_layer_axes is None:
            return None
        count = self.layer_ndim + len(self.groups) + len(self.outputs)
        own = [axis for axis in range(count) if axis not in self.bias_layer_axes]
        return tuple(own[len(self.groups) :])

    def layer_sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes of the layer axes.

        Args:
          shape: the shape of the weights.

        Examples:
          >>> Layer("kernel", None, 1, (2, 3), (), (0,), (1,), layer_axes=(1,)).layer_sizes(
          ...     (2, 6, 3)
          ... )
          (6,)
        """
        return shape[: self.layer_ndim] if self.layer_axes is None else tuple(shape[i] for i in self.layer_axes)

    @property
    def factor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each factor of one matrix by its name, in the order of the axes of a block."""
        *sides, outputs = self.tensor
        names = ("positions", "inputs") if self.positions is not None else ("inputs",)
        shapes = {name: (d,) if self.diagonal else (d, d) for name, d in zip(names, sides, strict=True)}
        return shapes | ({"outputs": (outputs, outputs)} if self.outputs else {})

    @property
    def sum_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each sum of a probe by its name, where the layer is called."""
        some = (self.size[0],) if self.groups else ()
        shapes = {name: (*some, *shape) for name, shape in self.factor_shapes.items()}
        return shapes | dict.fromkeys(["rows", "examples"], ()) | dict.fromkeys(["gradient", "moments"], self.size)

    @property
    def tensor(self) -> tuple[int, ...]:
        """The shape of a block: a matrix, or `(positions, channels, outputs)` if the layer is doubly factored."""
        _, inputs, outputs = self.size
        if self.positions is None:
            return inputs, outputs
        return self.positions, (inputs - (self.bias is not None)) // self.positions, outputs

    def seen_from(self, place: str) -> "Layer":
        """Return the same layer with paths relative to a module.

        Args:
          place: the path of the module.

        Examples:
          >>> Layer("dense/kernel", None, 0, (2, 3), (), (0,), (1,)).seen_from("dense").kernel
          'kernel'
        """
        start = len(f"{place}/" if place else "")
        return self._replace(kernel=self.kernel[start:], bias=None if self.bias is None else self.bias[start:])

    def put_at(self, place: str) -> "Layer":
        """Return the same layer with paths that include a module's: the inverse of `seen_from`.

        Args:
          place: the path of the module.
        """
        start = f"{place}/" if place else ""
        return self._replace(kernel=start + self.kernel, bias=None if self.bias is None else start + self.bias)

    def view(self, shape: tuple[int, ...]) -> View:
        """Return the view of the weights; the bias is the last row of each matrix, unless the layer is doubly factored.

        Axes without a full factor are passive: the rows of an embedding, and the column of a scale.

        Args:
          shape: the shape of the weights.

        Examples:
          >>> Layer("kernel", "bias", 0, (3, 2, 4), (), (0,), (1, 2)).view((3, 8))
          View(axes=((0,), (1, 2)), passive=(), shape=(3, 2, 4), row='bias')
          >>> Layer("kernel", "bias", 0, (6, 3), (), (0,), (1,), positions=2).view((6, 3))
          View(axes=((0,), (1,), (2,)), passive=(), shape=(2, 3, 3))
        """
        read = [*shape[: self.layer_ndim], *self.shape] if self.layer_axes is None else list(shape)
        inputs, outputs = ([self.places[i] for i in axes] for axes in (self.inputs, self.outputs))
        if self.positions is not None:
            positions, channels = _split(read, inputs, self.positions)
            outputs = [axis + (axis >= channels[0]) for axis in outputs]
            return View((tuple(positions), tuple(channels), tuple(outputs)), shape=tuple(read))
        for axes in (inputs, outputs):
            if not axes:
                axes.append(len(read))
                read.append(1)
        passive = (0,) if self.diagonal else () if self.outputs else (1,)
        return View((tuple(inputs), tuple(outputs)), passive, tuple(read), self.bias, self._columns_of_bias)

    def bias_view(self, shape: tuple[int, ...]) -> View | None:
        """Return the view of the bias as a column if the layer is doubly factored; else None.

        Args:
          shape: the shape of the bias.

        Examples:
          >>> Layer("kernel", "bias", 0, (6, 3), (), (0,), (1,), positions=2).bias_view((3,))
          View(axes=(-2, -1), passive=(1,), shape=(1, 3, 1))
        """
        if self.positions is None or self.bias is None:
            return None
        if self._columns_of_bias is not None:
            return View((self._columns_of_bias, len(shape)), (1,), (*shape, 1))
        groups, _, outputs = self.size
        return View((-2, -1), (1,), (*shape[: self.layer_ndim], groups, outputs, 1))

    def matrix(self, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Return the matrices, `[L, inputs, outputs]`.

        Args:
          kernel: the weights, or their gradient.
          bias: the bias, or its gradient; None for a layer whose bias is None.
        """
        _, rows, columns = self.size
        if self.layer_axes is not None:
            kernel = layer_axes_first(kernel, self.layer_axes)
        if bias is not None and self.bias_layer_axes is not None:
            bias = layer_axes_first(bias, self.bias_layer_axes)
        order = self.groups + self.inputs + self.outputs
        read = kernel.reshape(-1, *self.shape).transpose(0, *(1 + i for i in order))
        weights = read.reshape(-1, rows - (self.bias is not None), columns)
        if bias is None:
            return weights
        return jnp.concatenate([weights, bias.reshape(-1, 1, columns)], axis=1)


def _split(shape: list[int], inputs: list[int], positions: int) -> tuple[list[int], list[int]]:
    """Split the axes of the inputs into positions and channels; one axis of `shape` is split in two if needed."""
    for k, axis in enumerate(inputs):
        if positions <= shape[axis] and shape[axis] % positions == 0:
            shape[axis : axis + 1] = [positions, shape[axis] // positions]
            later = [i + (i > axis) for i in inputs]
            return later[: k + 1], [axis + 1, *later[k + 1 :]]
        if positions % shape[axis]:
            break
        positions //= shape[axis]
    raise ValueError(
        f"positions={positions} does not fit inputs of {[shape[i] for i in inputs]}: the first of these axes must make "
        f"up the positions, or the axis at which they end must divide by the rest."
    )

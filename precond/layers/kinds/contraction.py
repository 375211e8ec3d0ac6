"""Define the kind of dense layers, general dense layers and einsums: products of the input with the weights."""

import dataclasses
import math

import jax

from precond.arguments import check_whole, described
from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Signals, count_of, with_one

__all__ = ["Contraction", "dense", "einsum"]


@dataclasses.dataclass(frozen=True)
class Contraction(Kind):
    """Describe a product of the input with the weights over some axes: Dense, DenseGeneral, einsum.

    Axes of the input and of the output are counted from the end.

    Attributes:
      bias: whether the layer adds a bias.
      inputs: axes of the input that are contracted, in the order of the weights' axes.
      outputs: axes of the output that the weights make, in the order of the weights' axes.
      input_groups: axes of the input that the weights have too, and that are not contracted.
      output_groups: the same axes in the output.
      weights: what each axis of the weights is: (g)roup, (i)nput or (o)utput.
    """

    bias: bool
    inputs: tuple[int, ...] = (-1,)
    outputs: tuple[int, ...] = (-1,)
    input_groups: tuple[int, ...] = ()
    output_groups: tuple[int, ...] = ()
    weights: str = "io"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer: one matrix for each group, `[inputs, outputs]`."""
        count = len(shape) - len(self.weights)  # of the layer axes
        groups, inputs, outputs = (tuple(i for i, c in enumerate(self.weights) if c == role) for role in "gio")
        return Layer(kernel, bias, count, shape[count:], groups, inputs, outputs)

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the inputs and the cotangents; the axes that no matrix has are examples and positions."""

        def rows(y: jax.Array, groups: tuple[int, ...], features: tuple[int, ...]) -> jax.Array:
            last = tuple(i % y.ndim for i in groups + features)
            shared = tuple(i for i in range(y.ndim) if i not in last)
            y = y.transpose(shared + last)
            lead, end = y.shape[: len(shared)], len(shared) + len(groups)
            sizes = (math.prod(y.shape[len(shared) : end]), math.prod(y.shape[end:]))
            return y.reshape(count_of(lead, batch), math.prod(lead[batch:]), *sizes)

        inputs = rows(x.astype(g.dtype), self.input_groups, self.inputs)
        return Signals(with_one(inputs, self.bias), rows(g, self.output_groups, self.outputs))


@described()
def dense(bias: bool = True, inputs: int = 1, outputs: int = 1) -> Contraction:
    """Describe a product over the last axes of the input: Dense, DenseGeneral.

    Args:
      bias: whether the layer adds a bias.
      inputs: how many axes are contracted.
      outputs: how many axes the output gets in their place.

    Examples:
      >>> dense(outputs=2).outputs  # the projection to the heads of an attention
      (-2, -1)
    """
    check_whole("inputs", inputs, least=1)
    check_whole("outputs", outputs, least=1)
    return Contraction(bias, tuple(range(-inputs, 0)), tuple(range(-outputs, 0)), weights="i" * inputs + "o" * outputs)


@described()
def einsum(subscripts: str, ndim: int, bias: bool = False) -> Contraction:
    """Describe a product of an input (first) with weights (second) in Einstein's notation.

    Args:
      subscripts: `"...d,hdk->...hk"`. An index that input, weights and output all have numbers independent groups.
      ndim: the number of the input's axes.
      bias: whether the layer adds a bias, of the shape of the groups and the outputs.

    Raises:
      ValueError: if it is not one product of two arrays with each index at most once in each array. Also if the weights
        bring no axis of the output, or if shared axes change their order.

    Examples:
      >>> einsum("...d,hdk->...hk", ndim=3).outputs
      (-2, -1)
      >>> einsum("end,edf->enf", ndim=3).input_groups
      (-3,)
    """
    left, _, result = subscripts.replace(" ", "").partition("->")
    x, _, w = left.partition(",")
    dots = "".join(chr(ord("A") + i) for i in range(ndim - len(x.replace("...", ""))))
    x, result = x.replace("...", dots), result.replace("...", dots)
    contracted = [c for c in w if c in x and c not in result]
    free = [c for c in w if c in result and c not in x]
    groups = [c for c in w if c in x and c in result]
    shared = [c for c in x if c not in w]
    whole = all(len(set(s)) == len(s) for s in (x, w, result)) and len(contracted + free + groups) == len(w)
    if not (whole and free and [c for c in result if c not in w] == shared and len(x) == ndim):
        raise ValueError(
            f"einsum {subscripts!r} is no product of an input with {ndim} axes and weights. Write input,weights->output"
            " with each index at most once in each, the shared ones in one order, and an output axis from the weights."
        )

    def axes(indices: list[str], operand: str) -> tuple[int, ...]:
        return tuple(operand.index(c) - len(operand) for c in indices)

    roles = "".join("g" if c in groups else "i" if c in contracted else "o" for c in w)
    return Contraction(bias, axes(contracted, x), axes(free, result), axes(groups, x), axes(groups, result), roles)
